import type { Command } from 'commander';
import { z } from 'zod';
import { fleetFileDefaults, fleetSchema } from '../../src/cli/fleet-file.ts';
import { TASK_FIELDS } from '../../src/cli/task-objectives.ts';
import { code, GENERATED_NOTE, prose, table } from './markdown.ts';

/** `bonsai.yaml`, `fleet.yaml`, and the environment. */
export function configurationReference(commands: readonly Command[]): string {
  return `${[
    '# Configuration',
    GENERATED_NOTE,
    'Flags override the environment, which overrides the file.',
    '## bonsai.yaml',
    'Read from the folder that a command is started in, or from where `bonsai --config FILE COMMAND` says. A section per command, in it its long options ' +
      'without dashes; flags are `true` or `false`. A name that is not known is refused, in whichever section it stands.',
    '```yaml\nserve:\n  cpus: "0-1"\n  policy: bonsai\n  slo: 400ms\ntasks:\n  digits: { weight: 2, slo: 200ms, min-accuracy: 0.9 }\n```',
    `Sections: ${sectionNames(commands).map(code).join(', ')}. Their options are those of [the commands](commands.md).`,
    'Below `tasks:` stands what is asked of single tasks; `serve`, `orchestrate` and `simulate` read it ([policies.md](../policies.md#tasks-that-differ)):',
    table(
      ['field', 'expected'],
      Object.entries(TASK_FIELDS).map(([field, expected]) => [code(field), expected]),
    ),
    '## Environment',
    'Each option of a command is `BONSAI_` and its name in capitals, with `_` for `-`: `BONSAI_CPUS=0`, `BONSAI_GRPC_PORT=off`, `BONSAI_INT8=true`. Further:',
    table(
      ['variable', 'meaning'],
      Object.entries(ENVIRONMENT).map(([name, meaning]) => [code(name), meaning]),
    ),
    '## fleet.yaml',
    'What [`bonsai orchestrate fleet.yaml`](../fleet.md) reads. Relative paths are those of the file’s folder.',
    table(['field', 'expected', 'default', 'meaning'], fleetRows()),
  ].join('\n\n')}\n`;
}

function sectionNames(commands: readonly Command[]): string[] {
  const all = commands.flatMap((command) => [command, ...command.commands]);
  return all.filter(({ options }) => options.length > 0).map((command) => command.name());
}

/** Variables that Bonsai reads beside those of options. */
export const ENVIRONMENT: Readonly<Record<string, string>> = {
  ORT_DISABLE_TELEMETRY: '`0` lets ONNX Runtime send telemetry; Bonsai sets `1` where it is not set',
  XDG_CACHE_HOME: 'the folder of caches (`--cache`); by default `~/.cache`',
  KUBECONFIG: 'the cluster of `bonsai kubernetes controller`, outside of one',
  KUBERNETES_SERVICE_HOST: 'set by Kubernetes inside of a cluster',
  KUBERNETES_SERVICE_PORT: 'the same',
  npm_command: '`exec`, set by `npx`: the server ends with it, since npx passes no signals on',
  JOB_COMPLETION_INDEX:
    'set by Kubernetes in the pods of an indexed Job: with `--workers`, the share of `bonsai profile` and `bonsai port`',
};

interface JsonSchema {
  readonly description?: string;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly items?: JsonSchema;
  readonly anyOf?: readonly JsonSchema[];
}

function fleetRows(): string[][] {
  const schema = z.toJSONSchema(fleetSchema, { io: 'input', unrepresentable: 'any' }) as JsonSchema;
  const fields = fieldsOf(schema, '');
  const unknown = Object.keys(FLEET_FIELDS).filter((path) => !fields.some((field) => field.path === path));
  if (unknown.length > 0) throw new Error(`A fleet's file has no ${unknown.join(', ')}.`);
  return fields.map(({ path, expected, isRequired }) => {
    const field = FLEET_FIELDS[path];
    if (field === undefined) throw new Error(`Say in docs/generate/ what ${path} of a fleet's file means.`);
    const [fallback, meaning] = field;
    return [code(path), prose(uncapitalized(expected)), isRequired ? 'required' : fallback, meaning];
  });
}

interface Field {
  readonly path: string;
  readonly expected: string;
  readonly isRequired: boolean;
}

function fieldsOf(schema: JsonSchema, prefix: string): Field[] {
  return Object.entries(schema.properties ?? {}).flatMap(([name, own]) => {
    const path = `${prefix}${name}`;
    const inner = own.items ?? own.anyOf?.find(({ properties }) => properties !== undefined);
    const isRequired = schema.required?.includes(name) === true && FLEET_FIELDS[path]?.[0] === '';
    const expected = (own.description ?? (own.items === undefined ? '' : 'A list.')).replace(/\.$/, '');
    const nested = inner === undefined ? [] : fieldsOf(inner, `${path}${own.items ? '[]' : ''}.`);
    return [{ path, expected: own.anyOf ? expected || 'none, or a map' : expected, isRequired }, ...nested];
  });
}

/** Default and meaning; those without a default are required where the schema says so. */
const FLEET_FIELDS: Readonly<Record<string, readonly [fallback: string, meaning: string]>> = {
  repository: ['', 'the model repository: its accuracies and profiles decide'],
  state: ['`FILE.state.json`', 'what the orchestrator knows; the next one goes on from it'],
  policy: [
    code(fleetFileDefaults.policy),
    '`plan`: the planner chooses versions. A name of [a policy](../policies.md) (or a file): that policy chooses the version on each server, the planner still where tasks run',
  ],
  tls: [
    'the system’s authorities, the host of each URL',
    'for servers with `https://` URLs: `ca`, a PEM file with the authorities or the certificates that are believed, and `name`, which these have to be for ([more](../fleet.md#tls-to-the-servers))',
  ],
  utilization: ['`0.7`', 'the share of each server’s CPU that a plan fills; the rest is for bursts'],
  period: [code(`${fleetFileDefaults.periodMs / 1000}s`), 'from one look at all servers to the next'],
  balancer: [
    '`none`',
    'with `none`, the weights are in `bonsai fleet status --json` for a balancer of yours',
  ],
  'balancer.kind': ['', '[NGINX](../fleet.md#nginx)'],
  'balancer.http': ['', 'where clients speak HTTP'],
  'balancer.grpc': ['no gRPC', 'where they speak gRPC'],
  'balancer.folder': ['`FILE.nginx`', 'of its configuration'],
  'balancer.program': ['`nginx`', 'the program'],
  'balancer.workers': ['`1`', 'processes of NGINX'],
  'balancer.user': ['', 'of the workers, if root starts it'],
  'balancer.max-body': ['`64MiB`', 'a body, at most'],
  'balancer.keep-connections': ['by NGINX’ version', 'keep HTTP connections open over a reload'],
  servers: ['', 'who serves'],
  'servers[].name': ['host and port', 'in the status and in `tasks[].servers`'],
  'servers[].url': ['', 'Open Inference Protocol over HTTP'],
  'servers[].kind': [
    '`bonsai`',
    '`bonsai` and `triton` (explicit model control mode) load and unload; `v2`: any other server of the protocol, which is watched and balanced to, but not changed',
  ],
  'servers[].metrics': ['port 8002 of `url`', 'Prometheus metrics: demand and CPU'],
  'servers[].grpc': ['', 'without it, gRPC requests go to others'],
  'servers[].cpus': ['what the server says', 'cores for inference; needed for `v2`'],
  'servers[].memory': ['no limit', 'what networks may take, the server itself not counted'],
  'servers[].token-file': ['', 'administration token'],
  'servers[].weight': [
    '`1`',
    'factor on what a core carries: 0.5 for a machine half as fast as the profiled one',
  ],
  'servers[].target': [
    'the most recent',
    'whose profiles hold there ([`bonsai profile`](../profile.md#targets))',
  ],
  tasks: ['all of the repository', 'what is served'],
  'tasks[].name': ['', 'of the task'],
  'tasks[].slo': ['the repository’s', 'latency objective'],
  'tasks[].weight': ['`1`', 'importance under pressure'],
  'tasks[].min-accuracy': ['`0`', 'versions below it are never used'],
  'tasks[].replicas': [
    code(String(fleetFileDefaults.replicas)),
    'on so many servers, where there are that many',
  ],
  'tasks[].servers': ['all', 'where it may run'],
  'tasks[].grpc': ['', 'an address of the balancer for this task alone'],
};

/** "A path" → "a path", but HOST:PORT stays. */
function uncapitalized(text: string): string {
  return /^[A-Z]([a-z ]|$)/.test(text) ? `${text[0]!.toLowerCase()}${text.slice(1)}` : text;
}
