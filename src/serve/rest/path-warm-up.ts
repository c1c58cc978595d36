import { Agent, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { byteLengthOf } from '../../base/dtype.ts';
import { elementCount } from '../../base/tensor.ts';
import { datatypeOf } from '../../repository/datatypes.ts';
import type { WarmTarget } from '../path-warm-up.ts';
import { createRestServer, type RestContext } from './server.ts';

/** One request of so many comes on a connection of its own, so that letting connections in is warmed as well. */
const NEW_CONNECTION_EVERY = 4;

/** Sends requests through a REST server of its own until it is told to stop. @throws what the connection fails with */
export async function warmRest(
  context: RestContext,
  target: WarmTarget,
  token: string,
  mayGoOn: () => boolean,
): Promise<void> {
  const server = createRestServer({ ...context, tls: undefined, logsRequests: false });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const agent = new Agent({ keepAlive: true });
  const { port } = server.address() as AddressInfo; // It listens on TCP.
  const { body, jsonLength } = binaryRequest(target);
  const once = (connection: Agent | false) =>
    new Promise<void>((resolve, reject) => {
      const sent = request(
        {
          ...{
            agent: connection,
            port,
            host: '127.0.0.1',
            method: 'POST',
            path: `/v2/models/${target.model}/infer`,
          },
          headers: {
            Authorization: `Bearer ${token}`,
            'Content-Length': body.byteLength,
            'Inference-Header-Content-Length': jsonLength,
          },
        },
        (response) => response.resume().once('end', resolve).once('error', reject),
      );
      sent.once('error', reject);
      sent.end(body);
    });
  try {
    for (let i = 0; mayGoOn(); i++) await once(i % NEW_CONNECTION_EVERY === 0 ? false : agent);
  } finally {
    agent.destroy();
    await new Promise((resolve) => server.close(resolve));
  }
}

function binaryRequest({ inputs }: WarmTarget): { body: Buffer; jsonLength: number } {
  const sizes = inputs.map(({ dtype, shape }) => byteLengthOf(dtype, elementCount(shape)));
  const json = Buffer.from(
    JSON.stringify({
      parameters: { binary_data_output: true },
      inputs: inputs.map(({ name, dtype, shape }, i) => ({
        ...{ name, shape, datatype: datatypeOf(dtype) },
        parameters: { binary_data_size: sizes[i] },
      })),
    }),
  );
  const body = Buffer.concat([json, ...sizes.map((size) => Buffer.alloc(size))]);
  return { body, jsonLength: json.byteLength };
}
