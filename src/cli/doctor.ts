import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { Command, Option } from 'commander';
import { messageOf } from '../base/errors.ts';
import {
  DEFAULT_CONTROL_PORT,
  DEFAULT_GRPC_PORT,
  DEFAULT_HOST,
  DEFAULT_HTTP_PORT,
  DEFAULT_METRICS_PORT,
} from '../serve/listen.ts';
import { processContext } from './context.ts';
import { checkEngine, checkImageDecoder, checkNode } from './doctor/engine.ts';
import type { Finding, FindingStatus } from './doctor/finding.ts';
import { checkFolder } from './doctor/folders.ts';
import { checkMemory, checkOpenFiles, checkTerminal } from './doctor/limits.ts';
import { checkPorts, type WantedPort } from './doctor/ports.ts';
import { checkCpuBudget, checkInstructions, checkPinning, checkPriority } from './doctor/processor.ts';
import { checkPrograms } from './doctor/programs.ts';
import { checkRepository } from './doctor/repository.ts';
import { EXIT, EXIT_CODE_HELP } from './exit-codes.ts';
import { jsonOption, workOption } from './options.ts';
import { parseInteger } from './parse.ts';

interface DoctorOptions {
  readonly host: string;
  readonly port: number;
  readonly grpcPort: number | 'off';
  readonly metricsPort: number;
  readonly controlPort: number | 'off';
  readonly work: string;
  readonly json?: boolean;
}

/** One group of checks: a name for what fails altogether, and the checks. */
type Group = readonly [name: string, check: () => Promise<readonly Finding[]> | readonly Finding[]];

export function doctorCommand(): Command {
  return new Command('doctor')
    .description('Check what decides whether Bonsai runs well on this machine, and say what to do.')
    .argument('[repository]', 'a model repository to check as well')
    .option('--host <address>', 'where a server would listen', DEFAULT_HOST)
    .addOption(portOption('--port <n>', 'REST', DEFAULT_HTTP_PORT))
    .addOption(portOption('--grpc-port <n>', 'gRPC, or off', DEFAULT_GRPC_PORT, true))
    .addOption(portOption('--metrics-port <n>', 'Prometheus metrics', DEFAULT_METRICS_PORT))
    .addOption(portOption('--control-port <n>', 'the live page, or off', DEFAULT_CONTROL_PORT, true))
    .addOption(workOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai doctor
  $ bonsai doctor models
  $ bonsai doctor models --json | jq '.findings[] | select(.status != "ok")'

Each check is ok, warn (it works, but worse than it could) or fail (something will not work). Nothing is changed.
Exit code 1 means that something fails.
${EXIT_CODE_HELP}`,
    )
    .action(async (repository: string | undefined, options: DoctorOptions) => {
      const context = processContext(options);
      const findings: Finding[] = [];
      for (const [name, check] of groupsOf(repository, options)) {
        // A check that cannot be done is a finding like any other.
        findings.push(
          ...(await Promise.resolve()
            .then(check)
            .catch((thrown): Finding[] => [
              { name, status: 'fail', found: `cannot be checked: ${messageOf(thrown)}` },
            ])),
        );
      }
      const isOk = findings.every(({ status }) => status !== 'fail');
      context.result({ ok: isOk, findings }, findingsText(findings));
      if (!isOk) process.exitCode = EXIT.failure;
    });
}

function groupsOf(repository: string | undefined, options: DoctorOptions): readonly Group[] {
  const { engines } = createRequire(import.meta.url)('../../package.json') as { engines: { node: string } };
  return [
    ['Node.js', () => [checkNode(process.versions.node, engines.node)]],
    ['ONNX Runtime', checkEngine],
    ['image decoder', async () => [await checkImageDecoder()]],
    ['CPU', () => [checkInstructions(), checkCpuBudget(), checkPinning(), checkPriority()]],
    ['limits', () => [checkMemory(), checkOpenFiles(), checkTerminal()]],
    ['ports', () => checkPorts(options.host, portsOf(options))],
    [
      'folders',
      () =>
        Promise.all([
          checkFolder({ path: options.work, use: 'caches and checkpoints', option: '--work' }),
          checkFolder({
            path: '.',
            use: 'states of fleets',
            option: '"state" in their files',
            isOptional: true,
          }),
          checkFolder({ path: tmpdir(), use: 'networks as optimised for this machine', option: 'TMPDIR' }),
        ]),
    ],
    ['programs', checkPrograms],
    ...(repository === undefined
      ? []
      : [[`repository ${repository}`, () => checkRepository(repository)] as const]),
  ];
}

function portsOf(options: DoctorOptions): WantedPort[] {
  const { port, grpcPort, metricsPort, controlPort } = options;
  const wanted = [
    { port, use: 'REST', option: '--port' },
    { port: grpcPort, use: 'gRPC', option: '--grpc-port' },
    { port: metricsPort, use: 'metrics', option: '--metrics-port' },
    { port: controlPort, use: 'the live page', option: '--control-port', isFlexible: true },
  ];
  return wanted.flatMap((one) => (one.port === 'off' ? [] : [{ ...one, port: one.port as number }]));
}

function portOption(flags: string, use: string, port: number, mayBeOff = false): Option {
  const parse = parseInteger(0, 65_535);
  return new Option(flags, `port of ${use}`)
    .argParser((text: string) => (mayBeOff && text === 'off' ? text : parse(text)))
    .default(port);
}

/** Width of the names in the text, beyond which a name pushes its line. */
const NAME_WIDTH = 14;

/** A line for each finding, with what to do below it, and the count. */
export function findingsText(findings: readonly Finding[]): string {
  const lines = findings.flatMap(({ name, status, found, advice }) => [
    `${status.padEnd(4)}  ${name.padEnd(NAME_WIDTH)}  ${found}`,
    ...(advice === undefined ? [] : [`      → ${advice}`]),
  ]);
  const count = (wanted: FindingStatus) => findings.filter(({ status }) => status === wanted).length;
  return [
    ...lines,
    '',
    `${count('ok')} ok, ${count('warn')} to look at, ${count('fail')} that ${count('fail') === 1 ? 'fails' : 'fail'}.`,
  ].join('\n');
}
