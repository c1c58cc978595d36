import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { parse } from 'yaml';
import { BonsaiError, messageOf, systemReason } from '../../../base/errors.ts';

/** Where the API server is, and how it is spoken to. */
export interface ClusterAccess {
  /** As https://10.96.0.1:443; may have a path, where a proxy is in between. */
  readonly server: string;
  /** PEM of the authorities that its certificate is checked by; undefined: those of Node.js. */
  readonly ca?: string;
  readonly certificate?: string;
  readonly key?: string;
  /** That the certificate is to be for, where it is not the server's. */
  readonly serverName?: string;
  readonly trustsAnyCertificate?: boolean;
  /** Asked before each request: tokens of service accounts change each hour. */
  token?(): Promise<string | undefined>;
  /** Where the controller's own objects are. */
  readonly namespace: string;
}

/** Where Kubernetes mounts the account of a pod. */
export const SERVICE_ACCOUNT_FOLDER = '/var/run/secrets/kubernetes.io/serviceaccount';

/** The kubelet renews a token at 80 % of its life, of an hour at least: a minute is early enough. */
export const TOKEN_AGE_MS = 60_000;

/**
 * The access that a pod has by its service account.
 * @param host as KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT say
 * @throws BonsaiError `invalid_config` if there is no account
 */
export async function inClusterAccess(
  { host, port }: { readonly host: string; readonly port: string },
  nowMs: () => number,
  folder: string = SERVICE_ACCOUNT_FOLDER,
): Promise<ClusterAccess> {
  const read = (name: string) =>
    readText(`${folder}/${name}`, 'Give the pod a service account, and mount its token.');
  const token = rereading(() => read('token'), nowMs);
  await token();
  return {
    server: `https://${host.includes(':') ? `[${host}]` : host}:${port}`,
    ca: await read('ca.crt'),
    token,
    namespace: (await read('namespace')).trim(),
  };
}

/**
 * The access that a kubeconfig describes.
 * @param context undefined: the file's current one
 * @throws BonsaiError `invalid_config` naming the field; `unsupported` for credentials that a program makes
 */
export async function kubeconfigAccess(
  path: string,
  nowMs: () => number,
  context?: string,
): Promise<ClusterAccess> {
  let config: unknown;
  try {
    config = parse(await readText(path, 'Give one by --kubeconfig or KUBECONFIG.'));
  } catch (cause) {
    if (cause instanceof BonsaiError) throw cause;
    throw new BonsaiError('invalid_config', `${path}: ${messageOf(cause)}`, { cause });
  }
  const wrong = (problem: string) => new BonsaiError('invalid_config', `${path}: ${problem}.`);
  const named = (list: string, field: string, name: unknown): Fields => {
    const entries = fieldsOf(config)[list];
    const entry = (Array.isArray(entries) ? entries : []).find((each) => fieldsOf(each).name === name);
    if (entry === undefined) throw wrong(`there is no ${field} ${JSON.stringify(name)} in ${list}`);
    return fieldsOf(fieldsOf(entry)[field]);
  };
  const chosen = context ?? fieldsOf(config)['current-context'];
  if (typeof chosen !== 'string' || chosen === '') throw wrong('current-context is missing; give --context');
  const { cluster: clusterName, user: userName, namespace } = named('contexts', 'context', chosen);
  const cluster = named('clusters', 'cluster', clusterName);
  const user = userName === undefined || userName === '' ? {} : named('users', 'user', userName);
  if (typeof cluster.server !== 'string' || !URL.canParse(cluster.server))
    throw wrong(`the server of cluster ${JSON.stringify(clusterName)} is no URL`);
  if (user.exec !== undefined || user['auth-provider'] !== undefined)
    throw new BonsaiError(
      'unsupported',
      `${path}: user ${JSON.stringify(userName)} has credentials that a program makes (exec, auth-provider), which are not supported. ` +
        'Use a token or a certificate, `kubectl proxy`, or run the controller in the cluster.',
    );
  const folder = dirname(resolve(path));
  const pem = async (fields: Fields, field: string): Promise<string | undefined> => {
    const data = fields[`${field}-data`];
    if (typeof data === 'string' && data !== '') return Buffer.from(data, 'base64').toString('utf8');
    const file = fields[field];
    return typeof file === 'string' && file !== ''
      ? readText(resolve(folder, file), `${path} names it as ${field}.`)
      : undefined;
  };
  const { token, tokenFile } = user;
  return {
    server: cluster.server.replace(/\/$/, ''),
    ca: await pem(cluster, 'certificate-authority'),
    certificate: await pem(user, 'client-certificate'),
    key: await pem(user, 'client-key'),
    ...(typeof cluster['tls-server-name'] === 'string' && { serverName: cluster['tls-server-name'] }),
    trustsAnyCertificate: cluster['insecure-skip-tls-verify'] === true,
    ...(typeof tokenFile === 'string'
      ? { token: rereading(() => readText(resolve(folder, tokenFile), `${path} names it.`), nowMs) }
      : typeof token === 'string' && { token: async () => token }),
    namespace: typeof namespace === 'string' && namespace !== '' ? namespace : 'default',
  };
}

type Fields = Readonly<Record<string, unknown>>;

function fieldsOf(value: unknown): Fields {
  return typeof value === 'object' && value !== null ? (value as Fields) : {}; // Fields are checked where they are used.
}

function rereading(read: () => Promise<string>, nowMs: () => number): () => Promise<string> {
  let known: { readonly text: string; readonly atMs: number } | undefined;
  return async () => {
    if (known === undefined || nowMs() - known.atMs > TOKEN_AGE_MS)
      known = { text: (await read()).trim(), atMs: nowMs() };
    return known.text;
  };
}

async function readText(path: string, advice: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    throw new BonsaiError('invalid_config', `${path} cannot be read: ${systemReason(cause)}. ${advice}`, {
      cause,
    });
  }
}
