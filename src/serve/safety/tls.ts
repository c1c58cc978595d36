import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createSecureContext } from 'node:tls';
import { InvalidArgumentError, messageOf } from '../../base/errors.ts';

export interface TlsFiles {
  /** PEM: the server's certificate, then those of intermediate authorities. */
  readonly certFile: string;
  /** PEM: the private key of the first certificate. */
  readonly keyFile: string;
}

/** What a server shows to its clients, checked: the key belongs to the certificate. */
export interface TlsIdentity {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly expiresEpochMs: number;
}

/** @throws InvalidArgumentError if a file cannot be read, is no PEM, or the two do not belong together */
export async function readTlsIdentity({ certFile, keyFile }: TlsFiles): Promise<TlsIdentity> {
  const read = async (file: string) => {
    try {
      return await readFile(file);
    } catch (cause) {
      throw new InvalidArgumentError(`The TLS file ${file} cannot be read: ${messageOf(cause)}`, { cause });
    }
  };
  const [cert, key] = [await read(certFile), await read(keyFile)];
  try {
    createSecureContext({ cert, key });
    return { cert, key, expiresEpochMs: Date.parse(new X509Certificate(cert).validTo) };
  } catch (cause) {
    throw new InvalidArgumentError(
      `${certFile} and ${keyFile} are no certificate with its private key, both as PEM: ${messageOf(cause)}`,
      { cause },
    );
  }
}
