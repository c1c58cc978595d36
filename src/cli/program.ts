import { createRequire } from 'node:module';
import { Command } from 'commander';
import { CONFIG_FILE } from './config.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';

const { version } = createRequire(import.meta.url)('../../package.json') as { version: string };

/** The program without its commands. */
export function bonsaiProgram(): Command {
  return new Command('bonsai')
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
  $ bonsai doctor                                      whether this machine has what Bonsai needs
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
}

/** By name, in the order of the help. Each loads only what it needs: a server holds no code of training. */
export const COMMANDS: Readonly<Record<string, () => Promise<Command>>> = {
  train: async () => (await import('./train.ts')).trainCommand(),
  backbones: async () => (await import('./backbones.ts')).backbonesCommand(),
  inspect: async () => (await import('./inspect.ts')).inspectCommand(),
  prune: async () => (await import('./prune.ts')).pruneCommand(),
  quantize: async () => (await import('./quantize.ts')).quantizeCommand(),
  port: async () => (await import('./port.ts')).portCommand(),
  profile: async () => (await import('./profile.ts')).profileCommand(),
  repo: async () => (await import('./repo.ts')).repoCommand(),
  request: async () => (await import('./request.ts')).requestCommand(),
  serve: async () => (await import('./serve.ts')).serveCommand(),
  orchestrate: async () => (await import('./orchestrate.ts')).orchestrateCommand(),
  kubernetes: async () => (await import('./kubernetes.ts')).kubernetesCommand(),
  fleet: async () => (await import('./fleet.ts')).fleetCommand(),
  stress: async () => (await import('./stress.ts')).stressCommand(),
  experiment: async () => (await import('./experiment.ts')).experimentCommand(),
  simulate: async () => (await import('./simulate.ts')).simulateCommand(),
  demo: async () => (await import('./demo.ts')).demoCommand(),
  download: async () => (await import('./download.ts')).downloadCommand(),
  doctor: async () => (await import('./doctor.ts')).doctorCommand(),
  completion: async () => (await import('./completion.ts')).completionCommand(allCommands),
};

/** All of them, each made anew. */
export function allCommands(): Promise<Command[]> {
  return Promise.all(Object.values(COMMANDS).map((load) => load()));
}
