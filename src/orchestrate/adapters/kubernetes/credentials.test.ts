import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { inClusterAccess, kubeconfigAccess, TOKEN_AGE_MS } from './credentials.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-credentials-'));
});
afterEach(() => rm(folder, { recursive: true }));

const KUBECONFIG = `
current-context: near
contexts:
  - {name: near, context: {cluster: home, user: me, namespace: edge}}
  - {name: far, context: {cluster: cloud, user: robot}}
  - {name: made, context: {cluster: home, user: program}}
  - {name: lost, context: {cluster: gone, user: me}}
clusters:
  - {name: home, cluster: {server: "https://10.0.0.1:6443", certificate-authority-data: ${btoa('CA')}, tls-server-name: kubernetes}}
  - {name: cloud, cluster: {server: "https://cloud.example/clusters/1/", certificate-authority: ca.pem}}
users:
  - {name: me, user: {client-certificate-data: ${btoa('CERT')}, client-key-data: ${btoa('KEY')}}}
  - {name: robot, user: {tokenFile: token}}
  - {name: program, user: {exec: {command: aws}}}
`;

describe('a kubeconfig', () => {
  const read = async (context?: string, nowMs = () => 0) => {
    const path = join(folder, 'config');
    await writeFile(path, KUBECONFIG);
    return kubeconfigAccess(path, nowMs, context);
  };

  test('gives server, authorities, certificate and namespace of its context', async () => {
    expect(await read()).toMatchObject({
      server: 'https://10.0.0.1:6443',
      ca: 'CA',
      certificate: 'CERT',
      key: 'KEY',
      serverName: 'kubernetes',
      namespace: 'edge',
    });
  });

  test('names files beside itself, and a token that is read again', async () => {
    await writeFile(join(folder, 'ca.pem'), 'CA 2');
    await writeFile(join(folder, 'token'), 'first\n');
    let nowMs = 0;
    const access = await read('far', () => nowMs);
    expect(access).toMatchObject({
      server: 'https://cloud.example/clusters/1',
      ca: 'CA 2',
      namespace: 'default',
    });
    expect(await access.token!()).toBe('first');
    await writeFile(join(folder, 'token'), 'second\n');
    expect(await access.token!()).toBe('first');
    nowMs = TOKEN_AGE_MS + 1;
    expect(await access.token!()).toBe('second');
  });

  test('that cannot be used says why', async () => {
    await expect(read('none')).rejects.toMatchObject({
      code: 'invalid_config',
      message: expect.stringContaining('there is no context "none" in contexts'),
    });
    await expect(read('lost')).rejects.toThrow('there is no cluster "gone" in clusters');
    await expect(read('far')).rejects.toThrow('ca.pem cannot be read');
    await expect(read('made')).rejects.toMatchObject({ code: 'unsupported' });
    await expect(kubeconfigAccess(join(folder, 'absent'), () => 0)).rejects.toThrow(
      'Give one by --kubeconfig',
    );
  });
});

test('a pod has its service account', async () => {
  for (const [name, text] of Object.entries({ token: 't\n', 'ca.crt': 'CA', namespace: 'shop\n' }))
    await writeFile(join(folder, name), text);
  const access = await inClusterAccess({ host: 'fd00::1', port: '443' }, () => 0, folder);
  expect([access.server, access.ca, access.namespace, await access.token!()]).toEqual([
    'https://[fd00::1]:443',
    'CA',
    'shop',
    't',
  ]);
  await expect(inClusterAccess({ host: 'a', port: '1' }, () => 0, join(folder, 'none'))).rejects.toThrow(
    'Give the pod a service account',
  );
});
