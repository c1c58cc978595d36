import { Command, Option } from 'commander';
import { InvalidArgumentError } from '../base/errors.ts';
import { v2Server } from '../orchestrate/adapters/v2-server.ts';
import type { Logger } from '../orchestrate/logger.ts';
import { type DecisionRecord, runLoop } from '../orchestrate/loop.ts';
import { watchDefaults } from '../orchestrate/watch.ts';
import { POLICY_NAMES, policyByName } from '../policy/registry.ts';
import { listTasks, readManifest } from '../repository/store.ts';
import { DEFAULT_CONTROL_PORT, DEFAULT_HOST } from '../serve/listen.ts';
import { processContext } from './context.ts';
import { changesOf } from './decision-text.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { DEFAULT_FLEET_CONTROL_PORT } from './fleet-control.ts';
import { stderrLogger } from './logger.ts';
import { noticeWebhookOption, openAdministrators } from './notices.ts';
import { descriptionsOf } from './open-repository.ts';
import { jsonOption, readToken } from './options.ts';
import { orchestrateControl } from './orchestrate-control.ts';
import { isFleetFile, orchestrateFleet } from './orchestrate-fleet.ts';
import { parseDurationMs, parseInteger, parseMetricsUrl, parseNumber, parseServerUrl } from './parse.ts';
import { isPolicyFile, readPolicyFile } from './policy-file.ts';
import { suggest, wholeNames } from './suggestions.ts';
import { readTaskObjectives } from './task-objectives.ts';

interface OrchestrateOptions {
  readonly server?: string[];
  readonly metrics?: string[];
  readonly policy: string;
  readonly slo?: number;
  readonly timeScale: number;
  readonly tokenFile?: string;
  readonly target?: string;
  readonly noticeWebhook?: string;
  readonly metricsPort?: number;
  readonly controlPort?: number | 'off';
  readonly json?: boolean;
}

export function orchestrateCommand(): Command {
  return new Command('orchestrate')
    .description('Watch servers and move every task along its family as demand changes.')
    .argument(
      '<repository-or-fleet>',
      'the model repository that the servers serve (a folder or s3://BUCKET/PREFIX): its accuracies and profiles decide; or the file of a fleet (.yaml)',
    )
    .addOption(
      new Option('--server <url>', 'a server of the Open Inference Protocol; may be repeated').argParser(
        collectUrls,
      ),
    )
    .addOption(
      new Option(
        '--metrics <url>',
        "where that server's metrics are (default: its host at port 8002); in the order of --server",
      ).argParser((value: string, previous: string[] | undefined) => [
        ...(previous ?? []),
        parseMetricsUrl(value),
      ]),
    )
    .addOption(
      suggest(
        new Option('--policy <name>', `${POLICY_NAMES.join(', ')}, or a FILE that exports one`).default(
          'trivial',
        ),
        wholeNames(POLICY_NAMES),
      ),
    )
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
    .addOption(noticeWebhookOption())
    .addOption(
      new Option(
        '--metrics-port <n>',
        "a page of metrics of the orchestrator's own on loopback; 0 takes a free port",
      ).argParser(parseInteger(0, 65_535)),
    )
    .addOption(
      new Option(
        '--control-port <n>',
        `the live page, on loopback; 0 takes a free port, off offers none (default: ${DEFAULT_CONTROL_PORT}, of a fleet ${DEFAULT_FLEET_CONTROL_PORT}, or a free one if that is in use)`,
      ).argParser((text) => (text === 'off' ? text : parseInteger(0, 65_535)(text))),
    )
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai orchestrate models --server http://127.0.0.1:8000 --policy trivial
  $ bonsai orchestrate fleet.yaml

A fleet's file names servers, tasks, policy and balancer: one orchestrator for all (docs/fleet.md).
Runs until it is interrupted. Each decision is a line: when, what, and why with its numbers.
${EXIT_CODE_HELP}`,
    )
    .action(async (given: string, options: OrchestrateOptions, self: Command) => {
      const context = processContext(options);
      if (isFleetFile(given)) {
        refuseSingleServerOptions(self);
        await orchestrateFleet(given, context, options);
        return;
      }
      if (options.server === undefined) {
        throw new InvalidArgumentError(
          `Give the server of ${given} (--server http://127.0.0.1:8000), or the file of a fleet (fleet.yaml).`,
        );
      }
      const { timeScale, target: fingerprint } = options;
      const policy = isPolicyFile(options.policy)
        ? await readPolicyFile(options.policy)
        : policyByName(options.policy, { timeScale, fingerprint });
      const repository = await descriptionsOf(given, context);
      const names = await listTasks(repository);
      if (names.length === 0) throw new InvalidArgumentError(`There is no task in the repository ${given}.`);
      const tasks = await Promise.all(names.map((name) => readManifest(repository, name)));
      const objectives = await readTaskObjectives(self, names);
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
      const { told, page } = await openAdministrators(context, logger, options);
      const control =
        options.controlPort === 'off'
          ? undefined
          : await orchestrateControl({
              host: DEFAULT_HOST,
              port: options.controlPort ?? 'default',
              servers: servers.map(({ name }) => name),
              policyName: policy.name,
              tasks,
              sloMsOf: ({ task, sloMs }) =>
                objectives.get(task)?.sloMs ?? sloMs ?? options.slo ?? watchDefaults.sloMs,
              token,
              clock: context.clock,
              logger,
            });
      if (control !== undefined) logger.info({ control: control.url }, `See it at ${control.url}`);
      let last = '';
      try {
        await runLoop({
          servers,
          policy,
          objective: { tasks, sloMs: options.slo, fingerprint, byTask: Object.fromEntries(objectives) },
          administrators: told,
          clock: context.clock,
          signal: context.signal,
          logger,
          overrides: control?.overrides,
          onLook: control?.onLook,
          onDecision: (record) => {
            control?.onDecision(record);
            const line = describeDecision(record);
            // A reason that only repeats is told once; actions always.
            const moves = record.actions.length + (record.residency?.length ?? 0);
            if (!options.json && moves === 0 && record.reason === last) return;
            last = record.reason;
            process.stdout.write(`${options.json ? JSON.stringify(record) : line}\n`);
          },
        });
      } finally {
        await Promise.all([page?.close(), control?.close(), ...servers.map((server) => server.close())]);
      }
    });
}

/** A fleet's file says these itself. @throws InvalidArgumentError */
function refuseSingleServerOptions(command: Command): void {
  for (const name of ['server', 'metrics', 'policy', 'slo', 'timeScale', 'target', 'tokenFile']) {
    if (!['cli', 'env'].includes(command.getOptionValueSource(name) ?? '')) continue;
    const flag = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    throw new InvalidArgumentError(
      `--${flag} is for single servers; a fleet's file says it itself (docs/fleet.md).`,
    );
  }
}

export function describeDecision(record: DecisionRecord): string {
  const moves = changesOf(record).join(', ');
  const notice = record.notice === undefined ? '' : ` NOTICE: ${record.notice}`;
  return `${(record.atMs / 1000).toFixed(1)} s  ${record.server}  ${moves || 'stay'}: ${record.reason}${notice}`;
}

function metricsUrlOf(server: string): string {
  const url = new URL(server);
  url.port = '8002';
  return url.origin;
}

function collectUrls(value: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), parseServerUrl(value)];
}
