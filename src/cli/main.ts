#!/usr/bin/env node
import '../engine/no-telemetry.ts';
import { type Command, CommanderError } from 'commander';
import { BonsaiError, messageOf, systemCodeOf, systemReason } from '../base/errors.ts';
import { installOptionSources } from './config.ts';
import { EXIT, exitCodeOf } from './exit-codes.ts';
import { nameFlagsInComplaints } from './option-value.ts';
import { allCommands, bonsaiProgram, COMMANDS } from './program.ts';

const program = bonsaiProgram();

/** The command that the arguments name, behind the options of the program itself; undefined where help is wanted. */
function namedCommand(): (() => Promise<Command>) | undefined {
  const words = process.argv.slice(2);
  let at = 0;
  for (; words[at]?.startsWith('-'); at++) {
    if (words[at] === '--config') at++;
    else if (words[at] !== '--stack' && !words[at]!.startsWith('--config=')) return undefined;
  }
  const name = words[at] ?? '';
  return Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
}

const named = namedCommand();
for (const command of named === undefined ? await allCommands() : [await named()]) {
  for (const target of [command, ...command.commands]) {
    target.exitOverride();
    nameFlagsInComplaints(target);
  }
  program.addCommand(command);
}
installOptionSources(program, {
  config: () => ({
    path: program.opts<{ config: string }>().config,
    isRequired: program.getOptionValueSource('config') !== 'default',
  }),
  environment: process.env,
  allCommands,
});

// Who reads the output may go before its end (`bonsai inspect … | head`): then nobody wants the rest, and the work goes on.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error) => {
    if (systemCodeOf(error) === 'EPIPE') return;
    process.exitCode = EXIT.failure;
    if (stream === process.stdout)
      process.stderr.write(`bonsai: The result cannot be printed: ${systemReason(error)}.\n`);
  });
}

try {
  await program.parseAsync();
} catch (thrown) {
  if (thrown instanceof CommanderError) {
    // Commander has printed help, version or its complaint already; its own codes for help and version are 0.
    process.exitCode = thrown.exitCode === 0 ? EXIT.ok : EXIT.usage;
  } else {
    const stack = program.opts<{ stack?: boolean }>().stack || !(thrown instanceof BonsaiError);
    process.stderr.write(`bonsai: ${stack && thrown instanceof Error ? thrown.stack : describe(thrown)}\n`);
    process.exitCode = exitCodeOf(thrown);
  }
}

function describe(thrown: unknown): string {
  return thrown instanceof BonsaiError ? thrown.toString() : messageOf(thrown);
}
