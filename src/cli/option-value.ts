import type { Option } from 'commander';
import { BonsaiError, messageOf } from '../base/errors.ts';

/** The text as the option's own parser takes it; `where` heads the complaint. */
export function parsed(option: Option, text: string, where: string): unknown {
  if (option.argChoices !== undefined && !option.argChoices.includes(text)) {
    throw new BonsaiError(
      'invalid_config',
      `${where} should be one of ${option.argChoices.join(', ')}, got "${text}".`,
    );
  }
  if (option.parseArg === undefined) return text;
  try {
    return option.parseArg(text, undefined);
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
