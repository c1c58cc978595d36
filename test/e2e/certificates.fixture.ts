import { execFileSync, spawnSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';

export const hasOpenssl = spawnSync('openssl', ['version']).error === undefined;

export interface Certificate {
  readonly certFile: string;
  readonly keyFile: string;
}

/** A certificate for a name, valid for two days, signed by itself or by an authority. */
export async function certificate(
  folder: string,
  name: string,
  authority?: Certificate,
): Promise<Certificate> {
  const stem = join(folder, `${name}-${authority === undefined ? 'self' : 'signed'}`);
  const files = { certFile: `${stem}.crt`, keyFile: `${stem}.key` };
  const subject = ['-newkey', 'rsa:2048', '-nodes', '-subj', `/CN=${name}`, '-keyout', files.keyFile];
  const names = `subjectAltName=DNS:${name}`;
  if (authority === undefined) {
    openssl('req', '-x509', '-days', '2', ...subject, '-addext', names, '-out', files.certFile);
    return files;
  }
  openssl('req', ...subject, '-out', `${stem}.csr`);
  await writeFile(`${stem}.ext`, names);
  openssl(
    ...[
      'x509',
      '-req',
      '-days',
      '2',
      '-in',
      `${stem}.csr`,
      '-out',
      files.certFile,
      '-extfile',
      `${stem}.ext`,
    ],
    ...['-CA', authority.certFile, '-CAkey', authority.keyFile, '-CAcreateserial'],
  );
  return files;
}

function openssl(...args: readonly string[]): void {
  execFileSync('openssl', args, { stdio: 'ignore' });
}
