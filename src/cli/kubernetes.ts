import { randomUUID } from 'node:crypto';
import { homedir, hostname } from 'node:os';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import { stringify } from 'yaml';
import { BonsaiError, InvalidArgumentError } from '../base/errors.ts';
import type { ClusterAccess } from '../orchestrate/adapters/kubernetes/credentials.ts';
import { DEFAULT_HOST } from '../serve/listen.ts';
import { serveMetricsPage } from '../serve/metrics-page.ts';
import { type Context, processContext } from './context.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { fleetReader } from './kubernetes-reader.ts';
import { bonsaiDefinitions } from './kubernetes-resources.ts';
import { stderrLogger } from './logger.ts';
import { jsonOption, readToken } from './options.ts';
import { decisionLine } from './orchestrate-fleet.ts';
import { parseInteger } from './parse.ts';

/** What the chart calls its image, without a registry: those have their own. */
const DEFAULT_IMAGE = 'bonsai:0.1.0';
const DEFAULT_TOKEN_SECRET = 'bonsai-admin-token';
const DEFAULT_MODELS = '/models';

interface ControllerOptions {
  readonly namespace?: string;
  readonly allNamespaces?: boolean;
  readonly kubeconfig?: string;
  readonly context?: string;
  readonly models: string;
  readonly tokenFile?: string;
  readonly tokenSecret: string;
  readonly image: string;
  readonly metricsPort?: number;
  readonly metricsHost: string;
  readonly json?: boolean;
}

export function kubernetesCommand(): Command {
  const kubernetes = new Command('kubernetes')
    .description('Run fleets on Kubernetes: custom resources and their controller.')
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai kubernetes crds | kubectl apply -f -
  $ bonsai kubernetes controller --models ./models --token-file token     against the cluster of your kubeconfig
${EXIT_CODE_HELP}`,
    );
  kubernetes
    .command('crds')
    .description('print the custom resource definitions (Fleet, Task) as YAML')
    .action(() => {
      process.stdout.write(definitionsText());
    });
  kubernetes
    .command('controller')
    .description('look after the Fleets and Tasks of a cluster until interrupted (docs/kubernetes.md)')
    .option('--namespace <name>', 'whose Fleets to look after (default: that of the account)')
    .option('--all-namespaces', 'look after the Fleets of all namespaces')
    .option(
      '--kubeconfig <file>',
      'how to reach the cluster (default: KUBECONFIG, the account of the pod, ~/.kube/config)',
    )
    .option('--context <name>', "of the kubeconfig (default: the file's current one)")
    .addOption(
      new Option('--models <dir>', 'where the volume with the model repositories lies here').default(
        DEFAULT_MODELS,
      ),
    )
    .option('--token-file <file>', 'the administration token of the servers: the one that --token-secret has')
    .addOption(
      new Option(
        '--token-secret <name>',
        'the Secret that servers get their administration token from, under the key "token"',
      ).default(DEFAULT_TOKEN_SECRET),
    )
    .addOption(new Option('--image <image>', 'of servers whose Fleet names none').default(DEFAULT_IMAGE))
    .addOption(
      new Option('--metrics-port <n>', 'a page of metrics; 0 takes a free port').argParser(
        parseInteger(0, 65_535),
      ),
    )
    .addOption(new Option('--metrics-host <address>', 'where that page listens').default(DEFAULT_HOST))
    .addOption(jsonOption())
    .action(async (options: ControllerOptions) => {
      if (options.allNamespaces && options.namespace !== undefined)
        throw new InvalidArgumentError('--namespace and --all-namespaces exclude each other.');
      await runUntilSignal(options, processContext(options));
    });
  return kubernetes;
}

/** As they lie in deploy/kubernetes/crds. */
export function definitionsText(): string {
  return bonsaiDefinitions().map(definitionText).join('---\n');
}

export function definitionText(definition: object): string {
  return stringify(definition, { lineWidth: 0 });
}

async function runUntilSignal(options: ControllerOptions, context: Context): Promise<void> {
  // The client and the controller take memory that other commands are to have for themselves.
  const [{ KubernetesClient }, { runController }] = await Promise.all([
    import('../orchestrate/adapters/kubernetes/client.ts'),
    import('../orchestrate/adapters/kubernetes/controller.ts'),
  ]);
  const { clock, signal } = context;
  const logger = stderrLogger();
  const access = await accessOf(options, context);
  // What cannot be read shows before anybody waits for a lease.
  if (options.tokenFile !== undefined) await readToken(options.tokenFile);
  const client = new KubernetesClient(access);
  let text = () => '';
  const page =
    options.metricsPort === undefined
      ? undefined
      : await serveMetricsPage({ host: options.metricsHost, port: options.metricsPort, text: () => text() });
  if (page !== undefined) logger.info({ metrics: page.url }, `Metrics are at ${page.url}.`);
  try {
    await runController({
      client,
      reader: fleetReader(options, context),
      namespace: options.allNamespaces ? undefined : (options.namespace ?? access.namespace),
      ownNamespace: options.namespace ?? access.namespace,
      identity: `${hostname()}_${randomUUID()}`,
      clock,
      logger,
      signal,
      onMetrics: (give) => {
        text = give;
      },
      onDecision: (fleet, decision) =>
        process.stdout.write(
          context.json
            ? `${JSON.stringify({ fleet, ...decision })}\n`
            : `${decisionLine(decision).replace('  ', `  ${fleet}  `)}\n`,
        ),
    });
  } catch (error) {
    // A signal is how this command ends.
    if (!(error instanceof BonsaiError && error.code === 'aborted' && signal.aborted)) throw error;
  } finally {
    await Promise.all([page?.close(), client.close()]);
  }
}

/** What was named, else what a pod has, else the kubeconfig that kubectl uses. */
async function accessOf(
  { kubeconfig, context: chosen }: ControllerOptions,
  { clock }: Context,
): Promise<ClusterAccess> {
  const { inClusterAccess, kubeconfigAccess } = await import(
    '../orchestrate/adapters/kubernetes/credentials.ts'
  );
  const { KUBECONFIG, KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port = '443' } = process.env;
  const named = kubeconfig ?? (KUBECONFIG === '' ? undefined : KUBECONFIG);
  if (named === undefined && host !== undefined) return inClusterAccess({ host, port }, clock.nowMs);
  return kubeconfigAccess(named ?? join(homedir(), '.kube', 'config'), clock.nowMs, chosen);
}
