import { type Command, Option } from 'commander';
import type { Logger } from 'pino';
import { InvalidArgumentError, messageOf } from '../base/errors.ts';
import { DEFAULT_LIMITS, type Limits } from '../serve/limits.ts';
import { readTlsIdentity, type TlsIdentity } from '../serve/safety/tls.ts';
import { readTokens, type Tokens } from '../serve/safety/tokens.ts';
import { watchFiles } from '../serve/safety/watch.ts';
import type { RunningServer } from '../serve/server.ts';
import { parseDurationMs, parseInteger } from './parse.ts';

/** The options of `bonsai serve` that keep it safe. */
export interface SafetyOptions {
  readonly tokenFile?: string;
  readonly adminTokenFile?: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly maxBody: number;
  readonly maxJson: number;
  readonly maxJsonDepth: number;
  readonly maxTensor: number;
  readonly maxHeader: number;
  readonly maxInFlight: number;
  readonly maxConnections: number;
  readonly headerTimeout: number;
  readonly bodyTimeout: number;
}

export function addSafetyOptions(command: Command): Command {
  const bytes = (flags: string, of: string, value: number) =>
    new Option(flags, of).argParser(parseInteger(1)).default(value);
  const duration = (flags: string, of: string, value: number) =>
    new Option(flags, of).argParser(parseDurationMs).default(value, `${value}ms`);
  return command
    .option('--token-file <file>', 'bearer tokens, one a line, that inference needs')
    .option(
      '--admin-token-file <file>',
      'bearer tokens that loading and unloading need; they also allow inference',
    )
    .option('--tls-cert <file>', 'certificate with its chain, PEM; read again when it changes')
    .option('--tls-key <file>', 'private key of --tls-cert, PEM')
    .addOption(bytes('--max-body <bytes>', 'of a request', DEFAULT_LIMITS.maxBodyBytes))
    .addOption(
      bytes(
        '--max-json <bytes>',
        "of a request's JSON; more belongs into binary data",
        DEFAULT_LIMITS.maxJsonBytes,
      ),
    )
    .addOption(bytes('--max-json-depth <n>', 'levels of nesting', DEFAULT_LIMITS.maxJsonDepth))
    .addOption(bytes('--max-tensor <bytes>', 'of one tensor of a request', DEFAULT_LIMITS.maxTensorBytes))
    .addOption(bytes('--max-header <bytes>', 'of all headers of a request', DEFAULT_LIMITS.maxHeaderBytes))
    .addOption(
      bytes(
        '--max-in-flight <bytes>',
        'of all requests in the server at a time',
        DEFAULT_LIMITS.maxInFlightBytes,
      ),
    )
    .addOption(bytes('--max-connections <n>', 'at a time', DEFAULT_LIMITS.maxConnections))
    .addOption(
      duration(
        '--header-timeout <duration>',
        'in which the headers of a request must come',
        DEFAULT_LIMITS.headersTimeoutMs,
      ),
    )
    .addOption(
      duration('--body-timeout <duration>', 'the longest pause in a body', DEFAULT_LIMITS.bodyIdleTimeoutMs),
    );
}

export function limitsOf(options: SafetyOptions): Partial<Limits> {
  return {
    maxBodyBytes: options.maxBody,
    maxJsonBytes: options.maxJson,
    maxJsonDepth: options.maxJsonDepth,
    maxTensorBytes: options.maxTensor,
    maxHeaderBytes: options.maxHeader,
    maxInFlightBytes: options.maxInFlight,
    maxConnections: options.maxConnections,
    headersTimeoutMs: options.headerTimeout,
    bodyIdleTimeoutMs: options.bodyTimeout,
  };
}

/** What a server asks of its clients and shows to them. */
export interface Credentials {
  readonly tokens: Tokens;
  readonly tls: TlsIdentity | undefined;
}

/** @throws InvalidArgumentError for files that cannot be used */
export async function readCredentials(options: SafetyOptions): Promise<Credentials> {
  return { tokens: await readAllTokens(options), tls: await readIdentity(options) };
}

async function readAllTokens({ tokenFile, adminTokenFile }: SafetyOptions): Promise<Tokens> {
  return {
    inference: tokenFile === undefined ? undefined : await readTokens(tokenFile),
    administration: adminTokenFile === undefined ? undefined : await readTokens(adminTokenFile),
  };
}

async function readIdentity({ tlsCert, tlsKey }: SafetyOptions): Promise<TlsIdentity | undefined> {
  if ((tlsCert === undefined) !== (tlsKey === undefined))
    throw new InvalidArgumentError('--tls-cert and --tls-key are needed together.');
  return tlsCert === undefined || tlsKey === undefined
    ? undefined
    : await readTlsIdentity({ certFile: tlsCert, keyFile: tlsKey });
}

/**
 * Gives a running server what its files say whenever they change; what cannot be used is reported, and what was there
 * before stays in force.
 * @returns stops that
 */
export function followCredentials(
  options: SafetyOptions,
  server: Pick<RunningServer, 'access' | 'setTls'>,
  logger: Logger,
): () => void {
  const { tlsCert, tlsKey, tokenFile, adminTokenFile } = options;
  const files = [tlsCert, tlsKey, tokenFile, adminTokenFile].filter((file) => file !== undefined);
  // Apart, so that a token file that is gone keeps no new certificate out.
  const update = async (what: string, read: () => Promise<void>) => {
    try {
      await read();
      logger.info(`${what} read again`);
    } catch (thrown) {
      logger.error({ reason: messageOf(thrown) }, `${what} not read again; those of before stay in force`);
    }
  };
  return watchFiles(files, () => {
    void update('tokens', async () => server.access.replace(await readAllTokens(options)));
    if (tlsCert === undefined) return;
    void update('certificate and key', async () => server.setTls((await readIdentity(options))!));
  });
}
