import { Command, Option } from 'commander';
import { InvalidArgumentError } from '../base/errors.ts';
import { v2Server } from '../orchestrate/adapters/v2-server.ts';
import { type DecisionRecord, type Logger, runLoop } from '../orchestrate/loop.ts';
import { POLICY_NAMES, policyByName } from '../policy/registry.ts';
import { listTasks, readManifest } from '../repository/store.ts';
import { processContext } from './context.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { stderrLogger } from './logger.ts';
import { jsonOption, readToken } from './options.ts';
import { parseDurationMs, parseNumber } from './parse.ts';

interface OrchestrateOptions {
  readonly server: string[];
  readonly metrics?: string[];
  readonly policy: string;
  readonly slo?: number;
  readonly timeScale: number;
  readonly tokenFile?: string;
  readonly target?: string;
  readonly json?: boolean;
}

export function orchestrateCommand(): Command {
  return new Command('orchestrate')
    .description('Watch servers and move every task along its family as demand changes.')
    .argument(
      '<repository>',
      'the model repository that the servers serve: its accuracies and profiles decide',
    )
    .addOption(
      new Option('--server <url>', 'a server of the Open Inference Protocol; may be repeated')
        .argParser(collect)
        .makeOptionMandatory(),
    )
    .addOption(
      new Option(
        '--metrics <url>',
        "where that server's metrics are (default: its host at port 8002); in the order of --server",
      ).argParser(collect),
    )
    .addOption(new Option('--policy <name>', POLICY_NAMES.join(', ')).default('trivial'))
    .addOption(
      new Option('--slo <duration>', 'latency objective where the repository has none').argParser(
        parseDurationMs,
      ),
    )
    .addOption(
      new Option(
        '--time-scale <factor>',
        'factor on every time constant of the policy; below 1 it reacts sooner',
      )
        .argParser(parseNumber(0.001, 1000))
        .default(1),
    )
    .option('--target <fingerprint>', 'the target whose profiles count (default: the most recent)')
    .option('--token-file <file>', 'a file with the administration token of the servers')
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Example:
  $ bonsai orchestrate models --server http://127.0.0.1:8000 --policy trivial

Runs until it is interrupted. Each decision is a line: when, what, and why with its numbers.
${EXIT_CODE_HELP}`,
    )
    .action(async (repository: string, options: OrchestrateOptions) => {
      const context = processContext(options);
      const policy = policyByName(options.policy, {
        timeScale: options.timeScale,
        fingerprint: options.target,
      });
      const names = await listTasks(repository);
      if (names.length === 0)
        throw new InvalidArgumentError(`There is no task in the repository ${repository}.`);
      const tasks = await Promise.all(names.map((name) => readManifest(repository, name)));
      const token = options.tokenFile === undefined ? undefined : await readToken(options.tokenFile);
      const servers = options.server.map((url, index) =>
        v2Server({
          url,
          metricsUrl: options.metrics?.[index] ?? metricsUrlOf(url),
          clock: context.clock,
          token,
        }),
      );
      const logger: Logger = stderrLogger();
      let last = '';
      try {
        await runLoop({
          servers,
          policy,
          objective: { tasks, sloMs: options.slo, fingerprint: options.target },
          clock: context.clock,
          signal: context.signal,
          logger,
          onDecision: (record) => {
            const line = describeDecision(record);
            // A reason that only repeats is told once; actions always.
            if (!options.json && record.actions.length === 0 && record.reason === last) return;
            last = record.reason;
            process.stdout.write(`${options.json ? JSON.stringify(record) : line}\n`);
          },
        });
      } finally {
        await Promise.all(servers.map((server) => server.close()));
      }
    });
}

export function describeDecision(record: DecisionRecord): string {
  const moves = record.actions.map((action) => `${action.task} -> version ${action.toVersion}`).join(', ');
  const notice = record.notice === undefined ? '' : ` NOTICE: ${record.notice}`;
  return `${(record.atMs / 1000).toFixed(1)} s  ${record.server}  ${moves || 'stay'}: ${record.reason}${notice}`;
}

function metricsUrlOf(server: string): string {
  let url: URL;
  try {
    url = new URL(server);
  } catch (cause) {
    throw new InvalidArgumentError(`"${server}" is no URL; expected one such as http://127.0.0.1:8000.`, {
      cause,
    });
  }
  url.port = '8002';
  return url.origin;
}

function collect(value: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), value];
}
