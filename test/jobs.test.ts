import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { portCommand } from '../src/cli/port.ts';
import { profileCommand } from '../src/cli/profile.ts';
import type { WorkerOptions } from '../src/cli/workers.ts';

const file = fileURLToPath(new URL('../deploy/kubernetes/jobs.yaml', import.meta.url));

/** As far as it is looked at here; that all of it is a Job, kubectl says. */
interface Job {
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly spec: {
    readonly completionMode: string;
    readonly completions: number;
    readonly backoffLimit: number;
    readonly template: {
      readonly metadata: { readonly labels: Readonly<Record<string, string>> };
      readonly spec: {
        readonly restartPolicy: string;
        readonly nodeSelector?: object;
        readonly affinity?: {
          readonly podAntiAffinity: {
            readonly requiredDuringSchedulingIgnoredDuringExecution: readonly {
              readonly topologyKey: string;
              readonly labelSelector: { readonly matchLabels: object };
            }[];
          };
        };
        readonly automountServiceAccountToken: boolean;
        readonly securityContext: object;
        readonly containers: readonly {
          readonly args: readonly string[];
          readonly envFrom: readonly { readonly secretRef: { readonly name: string } }[];
          readonly resources: {
            readonly requests: Readonly<Record<string, string>>;
            readonly limits: Readonly<Record<string, string>>;
          };
          readonly securityContext: object;
          readonly volumeMounts: readonly { readonly name: string; readonly mountPath: string }[];
        }[];
        readonly volumes: readonly { readonly name: string }[];
      };
    };
  };
}

const jobs = parseAllDocuments(readFileSync(file, 'utf8')).map((document) => document.toJS() as Job);

/** The options that a pod's command line sets; throws what the program would complain about. */
async function optionsOf(
  args: readonly string[],
): Promise<WorkerOptions & Readonly<Record<string, unknown>>> {
  const [name, ...rest] = args;
  const command = name === 'profile' ? profileCommand() : portCommand();
  command.exitOverride().action(() => {});
  await command.parseAsync(rest, { from: 'user' });
  return command.opts();
}

describe('the Jobs of deploy/kubernetes', () => {
  const hasKubectl = spawnSync('kubectl', ['version', '--client']).status === 0;
  const why = hasKubectl ? '' : ' (left out: there is no kubectl here)';

  it.skipIf(!hasKubectl)(`are Jobs as Kubernetes knows them, with no field that it does not${why}`, () => {
    // kubectl reads them into the types of the API, without a cluster, and drops what these do not have.
    const { stdout, stderr, status } = spawnSync(
      'kubectl',
      ['annotate', '--local', '-f', file, 'seen=yes', '-o', 'json'],
      { encoding: 'utf8' },
    );
    expect(status, stderr).toBe(0);
    const read = stdout
      .split(/^(?=\{)/m)
      .filter((text) => text.trim() !== '')
      .map((text) => JSON.parse(text) as Job);
    expect(read).toHaveLength(jobs.length);
    for (const [i, job] of jobs.entries()) expect(read[i]).toMatchObject(job);
  });

  it('say the same number of workers to pods as to Kubernetes, in a command line that is understood', async () => {
    expect(jobs.map(({ kind, metadata }) => `${kind} ${metadata.name}`)).toEqual([
      'Job bonsai-profile-arm64',
      'Job bonsai-profile-amd64',
      'Job bonsai-port-mnist',
    ]);
    for (const { spec } of jobs) {
      const [container] = spec.template.spec.containers;
      const options = await optionsOf(container!.args);
      expect(spec.completionMode).toBe('Indexed');
      expect(options.workers).toBe(spec.completions);
      expect(options.workerIndex).toBeUndefined();
      expect(spec.backoffLimit).toBeGreaterThanOrEqual(spec.completions);
      // A container that is started again finds what it had; the pod's index says which share it is.
      expect(spec.template.spec.restartPolicy).toBe('OnFailure');
      expect(container!.envFrom).toEqual([{ secretRef: { name: 'bonsai-s3' } }]);
      const mounted = container!.volumeMounts.map(({ name }) => name);
      expect(spec.template.spec.volumes.map(({ name }) => name)).toEqual(mounted);
      expect(container!.volumeMounts.map(({ mountPath }) => mountPath)).toContain(options.work);
    }
  });

  it('measure on the target hardware alone: whole CPUs, one for the requests beside those of the server', async () => {
    for (const { spec } of jobs.filter(({ metadata }) => metadata.name.includes('profile'))) {
      const { nodeSelector, affinity, containers } = spec.template.spec;
      expect(nodeSelector).toBeDefined();
      expect(affinity!.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution).toEqual([
        {
          topologyKey: 'kubernetes.io/hostname',
          labelSelector: { matchLabels: spec.template.metadata.labels },
        },
      ]);
      const { requests, limits } = containers[0]!.resources;
      expect(requests).toEqual(limits);
      const { cpus } = await optionsOf(containers[0]!.args);
      expect(requests.cpu).toBe(String((cpus as number[]).length + 1));
    }
  });

  it('have pods as the restricted standard of Kubernetes wants them', () => {
    for (const { spec } of jobs) {
      const { securityContext, containers, automountServiceAccountToken } = spec.template.spec;
      expect(securityContext).toMatchObject({
        ...{ runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
      });
      expect(automountServiceAccountToken).toBe(false);
      for (const container of containers)
        expect(container.securityContext).toEqual({
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ['ALL'] },
        });
    }
  });
});

describe('the chart', () => {
  it('describes every value of its Jobs that its templates use, and no others', () => {
    const chart = (path: string) =>
      readFileSync(new URL(`../deploy/helm/bonsai/${path}`, import.meta.url), 'utf8');
    const templates = `${chart('templates/jobs.yaml')}${chart('templates/_names.tpl')}`;
    const { properties } = JSON.parse(chart('values.schema.json')).properties.jobs;
    const described = ['profile', 'port'].flatMap((kind) => Object.keys(properties[kind].items.properties));
    const used = [
      ...[...templates.matchAll(/\.job\.(\w+)/g)].map((match) => match[1]!),
      ...[...chart('templates/jobs.yaml').matchAll(/[ (]\.([a-z]\w*)/g)].map((match) => match[1]!),
    ];
    expect(new Set(used)).toEqual(new Set(described));
    for (const field of described) expect(chart('values.yaml')).toMatch(new RegExp(`# +(- )?${field}:`, 'm'));
  });
});
