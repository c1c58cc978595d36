import { v2Server } from '../../orchestrate/adapters/v2-server.ts';
import type { ServerAdapter } from '../../orchestrate/server-adapter.ts';
import type { Lab, LabProcess } from '../lab.ts';

/** A Bonsai server under test, in a process of its own. */
export interface TestedServer extends LabProcess {
  readonly url: string;
  readonly metricsUrl: string;
  readonly adapter: ServerAdapter;
  /** What it logged so far, a JSON text a line. */
  readonly log: readonly string[];
}

export interface TestedServerOptions {
  readonly cpus: readonly number[];
  /** Folder of a control group to run in. */
  readonly controlGroup?: string;
  /** Of `bonsai serve`. */
  readonly flags?: readonly string[];
}

/** Starts `bonsai serve` with the lab's tasks, bound to CPUs. @throws BonsaiError `load_failed` */
export async function startTestedServer(
  lab: Lab,
  { cpus, controlGroup, flags = [] }: TestedServerOptions,
): Promise<TestedServer> {
  const log: string[] = [];
  const started = await lab.start({
    name: 'The server under test',
    args: [
      ...['serve', lab.repository, '--json', '--exit-with-parent', '--cpus', cpus.join(',')],
      ...['--port', '0', '--metrics-port', '0', '--control-port', 'off', '--grpc-port', 'off'],
      ...flags,
    ],
    boundTo: cpus,
    controlGroup,
    isReady: (value) => 'ready' in value,
    onLog: (line) => log.push(line),
  });
  const { http, metrics } = started.ready as { http: string; metrics?: string }; // Of our own serve command.
  const adapter = v2Server({ url: http, metricsUrl: metrics ?? http, clock: lab.clock });
  return {
    ...started,
    url: http,
    metricsUrl: metrics ?? http,
    adapter,
    log,
    close: async () => {
      await adapter.close();
      await started.close();
    },
  };
}
