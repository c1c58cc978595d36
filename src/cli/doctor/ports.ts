import { createServer } from 'node:net';
import { request } from 'undici';
import { BonsaiError, messageOf } from '../../base/errors.ts';
import { listen } from '../../serve/listen.ts';
import type { Finding } from './finding.ts';

/** A port that a server is to have. */
export interface WantedPort {
  readonly port: number;
  /** What it is for. */
  readonly use: string;
  /** The option that chooses another. */
  readonly option: string;
  /** The server takes another one by itself where this is in use. */
  readonly isFlexible?: boolean;
}

/** Who listens there has this long to say that it is Bonsai. */
const ANSWER_LIMIT_MS = 1000;

/**
 * Whether each port is free, by listening there for a moment.
 * @param ports the first is that of REST: a Bonsai that answers there may have the others as well
 */
export async function checkPorts(host: string, ports: readonly WantedPort[]): Promise<readonly Finding[]> {
  const problems: (BonsaiError | undefined)[] = [];
  // One after another: two that are the same are told below.
  for (const { port } of ports) problems.push(await problemOf(host, port));
  const isOurs = problems[0]?.code === 'port_in_use' && (await isBonsai(host, ports[0]!.port));
  return ports.map(({ port, use, option, isFlexible }, i): Finding => {
    const name = `port ${port}`;
    const problem = problems[i];
    const twin = ports.find((other, k) => k < i && other.port === port && port !== 0);
    if (twin !== undefined) {
      const found = `wanted for ${use}, and for ${twin.use}`;
      return { name, status: 'fail', found, advice: `Choose another one with ${option} or ${twin.option}.` };
    }
    if (problem === undefined) return { name, status: 'ok', found: `free for ${use}` };
    if (problem.code !== 'port_in_use') {
      const advice = `Choose an address of this machine with --host, or another port with ${option}.`;
      return { name, status: 'fail', found: problem.message, advice };
    }
    if (isOurs) {
      const advice = `If another server is to run beside it, choose another port for ${use} with ${option}.`;
      return { name, status: 'warn', found: `in use; a Bonsai server runs on ${ports[0]!.port}`, advice };
    }
    return {
      name,
      status: isFlexible ? 'warn' : 'fail',
      found: `in use by another program; wanted for ${use}`,
      advice: isFlexible
        ? `The server takes a free one instead; choose one with ${option} to know which.`
        : `Stop the program (ss -ltnp shows it), or choose another port with ${option}.`,
    };
  });
}

async function problemOf(host: string, port: number): Promise<BonsaiError | undefined> {
  const server = createServer();
  try {
    await listen(server, host, port);
    await new Promise((resolve) => server.close(resolve));
    return undefined;
  } catch (thrown) {
    if (thrown instanceof BonsaiError) return thrown;
    return new BonsaiError('invalid_argument', messageOf(thrown), { cause: thrown });
  }
}

async function isBonsai(host: string, port: number): Promise<boolean> {
  const address = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '[::1]' : host;
  try {
    const { body } = await request(`http://${address}:${port}/v2`, {
      signal: AbortSignal.timeout(ANSWER_LIMIT_MS),
    });
    const metadata = (await body.json()) as { name?: unknown } | null;
    return metadata?.name === 'bonsai';
  } catch {
    return false;
  }
}
