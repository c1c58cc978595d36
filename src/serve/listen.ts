import type { AddressInfo, Server } from 'node:net';
import { BonsaiError, InvalidArgumentError, messageOf, systemCodeOf } from '../base/errors.ts';

/** Triton's ports: REST, gRPC, metrics. */
export const DEFAULT_HTTP_PORT = 8000;
export const DEFAULT_GRPC_PORT = 8001;
export const DEFAULT_METRICS_PORT = 8002;
/** Of the live page. */
export const DEFAULT_CONTROL_PORT = 8080;
export const DEFAULT_HOST = '127.0.0.1';

/**
 * @param port 0: any free one
 * @returns the port
 * @throws BonsaiError `port_in_use`, InvalidArgumentError for an address that cannot be listened on
 */
export function listen(server: Server, host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause) => {
      if (systemCodeOf(cause) === 'EADDRINUSE') {
        const message = `Port ${port} on ${host} is in use. Stop the program that uses it or choose another port (0: any free one).`;
        reject(new BonsaiError('port_in_use', message, { cause }));
      } else {
        reject(
          new InvalidArgumentError(`Cannot listen on ${host}, port ${port}: ${messageOf(cause)}`, { cause }),
        );
      }
    });
    server.listen(port, host, () => {
      const address = server.address() as AddressInfo; // A listening TCP server has one.
      resolve(address.port);
    });
  });
}

/**
 * Listens for the live page. Who has not chosen a port for it is not to be kept from serving by another program that has
 * the usual one.
 * @param port `default`: `usual` or, where that is in use, any free one
 * @throws as `listen`
 */
export async function listenForControl(
  server: Server,
  host: string,
  port: number | 'default',
  usual: number = DEFAULT_CONTROL_PORT,
): Promise<number> {
  if (port !== 'default') return listen(server, host, port);
  try {
    return await listen(server, host, usual);
  } catch (thrown) {
    if (!(thrown instanceof BonsaiError) || thrown.code !== 'port_in_use') throw thrown;
    return listen(server, host, 0);
  }
}
