import { describe, expect, it } from 'vitest';
import { BonsaiError } from '../base/errors.ts';
import { metricsOf, parseFleetFile, serverNameOf } from './fleet-file.ts';

const WHOLE = `
repository: models
policy: trivial
utilization: 0.6
period: 500ms
balancer:
  kind: nginx
  http: 127.0.0.1:8080
  grpc: "[::1]:8081"
  max-body: 16MiB
servers:
  - name: edge-1
    url: http://127.0.0.1:8000
    grpc: 127.0.0.1:8001
    cpus: 2
    memory: 512MB
    token-file: admin.token
    weight: 0.5
  - url: http://pi.local:9000/
    kind: triton
    metrics: http://pi.local:9002
tasks:
  - name: mnist
    slo: 200ms
    weight: 2
    min-accuracy: 0.9
    replicas: 1
    servers: [edge-1]
`;

function complaint(text: string): string {
  try {
    parseFleetFile(text, '/etc/fleet.yaml');
  } catch (error) {
    expect(error).toBeInstanceOf(BonsaiError);
    expect((error as BonsaiError).code).toBe('invalid_config');
    return (error as BonsaiError).message;
  }
  throw new Error('accepted');
}

describe("a fleet's file", () => {
  it('is read with units and paths resolved', () => {
    const file = parseFleetFile(WHOLE, '/etc/fleet.yaml');
    expect(file).toMatchObject({
      repository: '/etc/models',
      state: '/etc/fleet.state.json',
      period: 500,
      balancer: { kind: 'nginx', 'max-body': 16 * 1024 * 1024 },
    });
    expect(file.servers[0]).toMatchObject({ memory: 512e6, 'token-file': '/etc/admin.token', weight: 0.5 });
    expect(file.servers.map(serverNameOf)).toEqual(['edge-1', 'pi.local-9000']);
    expect(file.servers.map(metricsOf)).toEqual(['http://127.0.0.1:8002', 'http://pi.local:9002']);
    expect(file.tasks![0]).toMatchObject({ slo: 200, 'min-accuracy': 0.9, servers: ['edge-1'] });
  });

  it('may have servers that speak TLS, by the certificates of one authority', () => {
    const file = parseFleetFile(
      WHOLE.replaceAll('url: http:', 'url: https:').replace(
        'servers:',
        'tls: {ca: ca.pem, name: edge.example}\nservers:',
      ),
      '/etc/fleet.yaml',
    );
    expect(file.tls).toEqual({ ca: '/etc/ca.pem', name: 'edge.example' });
  });

  it.each([
    ['', '/etc/fleet.yaml:1: expected repository:, servers: and tasks:; see docs/fleet.md.'],
    ['a: [', /^\/etc\/fleet\.yaml:1: /],
    ['repository: m', '/etc/fleet.yaml:1: servers should be a list.'],
    [
      WHOLE.replace('cpus: 2', 'cpus: many'),
      '/etc/fleet.yaml:15: servers[0].cpus is "many"; expected a number of cores above 0.',
    ],
    [WHOLE.replace('cpus: 2', 'cores: 2'), '/etc/fleet.yaml:15: servers[0].cores is not known here.'],
    [
      WHOLE.replace('    url: http://127.0.0.1:8000\n', ''),
      /:12: servers\[0\]\.url is missing; expected a URL such as/,
    ],
    [
      WHOLE.replace('http://pi.local:9000/', 'http://pi.local:9000/triton'),
      /:19: servers\[1\]\.url is "http:\/\/pi\.local:9000\/triton"; expected a URL such as .*, without a path/,
    ],
    [
      WHOLE.replace('http://pi.local:9000/', 'http://127.0.0.1:8000'),
      /:19: pi\.local-9000 and edge-1 are the same server|:19: .* are the same server/,
    ],
    [WHOLE.replace('512MB', '-1'), /:16: servers\[0\]\.memory is -1; expected a size such as 512MB/],
    [WHOLE.replace('200ms', 'soon'), /:24: tasks\[0\]\.slo is "soon"; expected a duration such as 200ms\./],
    [
      WHOLE.replace('[edge-1]', '[edge-9]'),
      /:28: there is no server edge-9; there are edge-1, pi\.local-9000\./,
    ],
    [
      WHOLE.replace('name: mnist', 'name: ../x'),
      /:23: tasks\[0\]\.name is "\.\.\/x"; expected a name of letters/,
    ],
    [
      WHOLE.replace('kind: nginx', 'kind: haproxy'),
      /:7: balancer\.kind is "haproxy"; expected one of nginx\./,
    ],
    [
      WHOLE.replace('http: 127.0.0.1:8080', 'http: 127.0.0.1; evil'),
      /:8: balancer\.http is .*; expected HOST:PORT/,
    ],
    [WHOLE.replace('"[::1]:8081"', '127.0.0.1:8080'), /:7: two things are to listen at 127\.0\.0\.1:8080/],
    [
      WHOLE.replace('http://pi.local:9000/', 'https://pi.local'),
      /:19: pi\.local speaks TLS, and NGINX has to know whom to trust: give tls:/,
    ],
    [
      WHOLE.replace('servers:', 'tls: {ca: ca.pem, name: edge.example}\nservers:'),
      /:14: NGINX speaks TLS to all servers \(tls:\) or to none: give edge-1 an https:\/\/ URL\./,
    ],
    [
      WHOLE.replace('servers:', 'tls: {ca: ca.pem, name: "a; evil"}\nservers:'),
      /:11: tls\.name is "a; evil"; expected the name that the certificates/,
    ],
    [
      WHOLE.replace('servers:', 'tls: {ca: ca.pem, name: 10.0.0.1}\nservers:'),
      /:11: tls\.name is "10\.0\.0\.1"; expected/,
    ],
    [
      WHOLE.replace('  - url: http://pi.local:9000/', '  - name: edge-1\n    url: http://pi.local:9000/'),
      /two servers are called edge-1/,
    ],
    [
      WHOLE.replace('kind: triton', 'kind: v2'),
      /:19: pi\.local-9000 is of kind v2, which does not tell its CPUs: give cpus\./,
    ],
    [
      'repository: m\nbalancer: some\nservers: [{url: "http://a:1"}]',
      /:2: balancer is "some"; expected none, or a map with kind: nginx\./,
    ],
    ['repository: m\nservers: []', /:2: servers is an empty list/],
  ])('is refused with file, line, field and what is expected %#', (text, message) => {
    if (typeof message === 'string') expect(complaint(text)).toBe(message);
    else expect(complaint(text)).toMatch(message);
  });
});
