import type { Logger } from 'pino';
import { InvalidArgumentError } from '../base/errors.ts';
import { startProcessProxy } from '../serve/rest/process-proxy.ts';
import type { Context } from './context.ts';
import { startServerProcess } from './server-process.ts';

export interface ProcessesOptions {
  readonly host: string;
  readonly port: number;
  readonly cpus?: readonly number[];
  readonly slo?: number;
  readonly json?: boolean;
}

const CPU_QUOTA_REFUSED =
  '--cpu-quota holds one process, and --one-model-per-process has one for each version, of which each would take the quota for itself. Leave it out, or bound them together from outside (systemd-run -p CPUQuota=50%).';

/** Options of a server that the proxy has no counterpart of, by their flags. */
const NOT_OFFERED = [
  ['policy', '--policy'],
  ['tlsCert', '--tls-cert'],
  ['tokenFile', '--token-file'],
  ['adminTokenFile', '--admin-token-file'],
  ['modelControlMode', '--model-control-mode'],
  ['loadModel', '--load-model'],
] as const;

/** Serves each version from a process of its own, for experiments, until the context's signal. @throws InvalidArgumentError */
export async function serveProcesses(
  repository: string,
  options: ProcessesOptions & Readonly<Record<string, unknown>>,
  context: Context,
  logger: Logger,
): Promise<void> {
  if (options.cpuQuota !== undefined) throw new InvalidArgumentError(CPU_QUOTA_REFUSED);
  const refused: string[] = NOT_OFFERED.filter(([name]) => options[name] !== undefined).map(
    ([, flag]) => flag,
  );
  if (!/^(localhost|::1|127\..*)$/.test(options.host)) refused.push('--host');
  if (refused.length > 0) {
    throw new InvalidArgumentError(
      `--one-model-per-process is for experiments: it has REST on loopback only. Leave out ${refused.join(', ')}.`,
    );
  }
  const proxy = await startProcessProxy({
    repository,
    logger,
    clock: context.clock,
    host: options.host,
    httpPort: options.port,
    startProcess: (task, version) =>
      startServerProcess({
        repository,
        task,
        initial: `${task}=${version}`,
        cpus: options.cpus,
        sloMs: options.slo,
      }),
  });
  process.stdout.write(
    options.json
      ? `${JSON.stringify({ ready: true, http: proxy.httpUrl })}\n`
      : `Serving ${repository}, each version from a process of its own: REST ${proxy.httpUrl}\n`,
  );
  if (!context.signal.aborted)
    await new Promise<void>((resolve) =>
      context.signal.addEventListener('abort', () => resolve(), { once: true }),
    );
  await proxy.close();
}
