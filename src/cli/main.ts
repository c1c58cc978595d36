#!/usr/bin/env node
import { createRequire } from 'node:module';
import { Command, CommanderError } from 'commander';
import { BonsaiError, messageOf, systemCodeOf, systemReason } from '../base/errors.ts';
import { backbonesCommand } from './backbones.ts';
import { CONFIG_FILE, installOptionSources } from './config.ts';
import { demoCommand } from './demo.ts';
import { downloadCommand } from './download.ts';
import { EXIT, EXIT_CODE_HELP, exitCodeOf } from './exit-codes.ts';
import { inspectCommand } from './inspect.ts';
import { orchestrateCommand } from './orchestrate.ts';
import { portCommand } from './port.ts';
import { profileCommand } from './profile.ts';
import { pruneCommand } from './prune.ts';
import { quantizeCommand } from './quantize.ts';
import { repoCommand } from './repo.ts';
import { requestCommand } from './request.ts';
import { serveCommand } from './serve.ts';
import { simulateCommand } from './simulate.ts';
import { stressCommand } from './stress.ts';
import { trainCommand } from './train.ts';

const { version } = createRequire(import.meta.url)('../../package.json') as { version: string };

const program = new Command('bonsai')
  .description('Keeps accurate neural networks answering in time on hardware that cannot be made bigger.')
  .version(version)
  .option('--config <file>', 'options by command, in YAML', CONFIG_FILE)
  .option('--stack', 'print the stack of an error')
  .showHelpAfterError('(bonsai COMMAND --help lists the options)')
  .exitOverride()
  .addHelpText(
    'after',
    `
Examples:
  $ bonsai demo                                        the whole story in five minutes
  $ bonsai train --data mnist --out digits.onnx        train a network
  $ bonsai inspect resnet18.onnx                       what a network consists of, what of it can be pruned
  $ bonsai prune resnet18.onnx --out smaller.onnx --verify     remove half of the channels
  $ bonsai port digits.onnx --data mnist --out models  grow it into a family
  $ bonsai request models --max 'throughput>=40/s'     the best variant within bounds
  $ bonsai serve models --cpus 0                       serve the family
  $ bonsai orchestrate models --server http://127.0.0.1:8000   move it along its family as demand changes

Flags override the environment (BONSAI_CPUS for --cpus), which overrides ${CONFIG_FILE}.
${EXIT_CODE_HELP}`,
  );

const commands = [
  trainCommand(),
  backbonesCommand(),
  inspectCommand(),
  pruneCommand(),
  quantizeCommand(),
  portCommand(),
  profileCommand(),
  repoCommand(),
  requestCommand(),
  serveCommand(),
  orchestrateCommand(),
  stressCommand(),
  simulateCommand(),
  demoCommand(),
  downloadCommand(),
];

for (const command of commands) {
  for (const target of [command, ...command.commands]) target.exitOverride();
  program.addCommand(command);
}
installOptionSources(program, {
  config: () => ({
    path: program.opts<{ config: string }>().config,
    isRequired: program.getOptionValueSource('config') !== 'default',
  }),
  environment: process.env,
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
