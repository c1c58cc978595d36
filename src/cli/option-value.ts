import type { Command, Option } from 'commander';
import { BonsaiError, InvalidArgumentError, messageOf } from '../base/errors.ts';

/** Parsers of options, as they were before complaints about flags named them. */
const OWN_PARSERS = new WeakMap<Option, NonNullable<Option['parseArg']>>();

/** What a flag's value is refused for is told with the flag's name: a command has many that take a number. */
export function nameFlagsInComplaints(command: Command): void {
  for (const option of command.options) {
    const parse = option.parseArg;
    if (parse === undefined) continue;
    OWN_PARSERS.set(option, parse);
    option.parseArg = <T>(text: string, before: T): T => {
      try {
        return parse(text, before) as T;
      } catch (cause) {
        if (!(cause instanceof InvalidArgumentError)) throw cause;
        const flag = option.long ?? option.flags;
        if (cause.message.includes(flag)) throw cause;
        throw new InvalidArgumentError(`${flag}: ${cause.message}`, { cause });
      }
    };
  }
}

/** The text as the option's own parser takes it; `where` heads the complaint. */
export function parsed(option: Option, text: string, where: string): unknown {
  if (option.argChoices !== undefined && !option.argChoices.includes(text)) {
    throw new BonsaiError(
      'invalid_config',
      `${where} should be one of ${option.argChoices.join(', ')}, got "${text}".`,
    );
  }
  const parse = OWN_PARSERS.get(option) ?? option.parseArg;
  if (parse === undefined) return text;
  try {
    return parse(text, undefined);
  } catch (cause) {
    throw new BonsaiError('invalid_config', `${where}: ${messageOf(cause)}`, { cause });
  }
}

/** A flag's value from a variable of the environment. @throws BonsaiError `invalid_config` */
export function truth(text: string, name: string): boolean {
  if (/^(1|true|yes)$/i.test(text)) return true;
  if (/^(0|false|no|)$/i.test(text)) return false;
  throw new BonsaiError('invalid_config', `${name} should be true or false, got "${text}".`);
}
