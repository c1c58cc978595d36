import { readdirSync, readFileSync } from 'node:fs';
import { join, posix, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Who may import whom. The same table stands in ARCHITECTURE.md; adding an edge is a decision (docs/decisions/). */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  base: [],
  graph: ['base'],
  ops: ['graph', 'base'],
  transform: ['ops', 'graph', 'base'],
  engine: ['graph', 'base'],
  repository: ['base'],
  policy: ['repository', 'base'],
  port: ['transform', 'ops', 'engine', 'graph', 'repository', 'base'],
  serve: ['engine', 'repository', 'policy', 'base'],
  orchestrate: ['policy', 'repository', 'base'],
  load: ['base'],
  simulate: ['policy', 'load', 'repository', 'base'],
  report: ['base'],
  experiment: ['orchestrate', 'simulate', 'load', 'policy', 'repository', 'report', 'base'],
  cli: [
    'base',
    'graph',
    'ops',
    'transform',
    'engine',
    'repository',
    'policy',
    'port',
    'serve',
    'orchestrate',
    'load',
    'simulate',
    'report',
    'experiment',
  ],
};

/** Packages with their owners: nothing else may import them. Tests may. */
const OWNED_PACKAGES: Readonly<Record<string, string | readonly string[]>> = {
  'onnxruntime-node': 'src/engine/',
  // Two formats: networks, and the messages of the inference protocol.
  '@bufbuild/protobuf': ['src/graph/onnx/', 'src/serve/grpc/'],
  'prom-client': 'src/serve/',
  '@aws-sdk/client-s3': 'src/repository/s3/',
  commander: 'src/cli/',
  'cli-progress': 'src/cli/',
  'pure-rand': 'src/base/',
  sharp: 'src/port/data/',
};

/** What the package exports: it re-exports by name from every folder and belongs to none. */
const ENTRY_POINT = 'src/index.ts';

interface Import {
  readonly from: string;
  readonly specifier: string;
}

const sources = filesUnder(join(root, 'src'))
  .map((path) => relative(root, path).replaceAll('\\', '/'))
  .filter((path) => path.endsWith('.ts') && !/\.(test|fixture)\.ts$/.test(path));

const imports = sources.flatMap((from): Import[] =>
  [...readFileSync(join(root, from), 'utf8').matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)].map((match) => ({
    from,
    specifier: match[1]!,
  })),
);

describe('imports', () => {
  it('go only along the allowed edges between folders', () => {
    const wrong = edges().filter(({ from, to }) => !ALLOWED[from]?.includes(to));
    expect(wrong.map(({ file, to }) => `${file} imports ${to}/`)).toEqual([]);
  });

  it('keep the two protocols of the server apart: what both need lies beside them', () => {
    const wrong = imports.filter(({ from, specifier }) => {
      const target = posix.join(posix.dirname(from), specifier);
      return (
        (from.startsWith('src/serve/rest/') && target.startsWith('src/serve/grpc/')) ||
        (from.startsWith('src/serve/grpc/') && target.startsWith('src/serve/rest/'))
      );
    });
    expect(wrong.map(({ from, specifier }) => `${from} imports ${specifier}`)).toEqual([]);
  });

  it('know every folder of src', () => {
    const folders = readdirSync(join(root, 'src'), { withFileTypes: true })
      .filter((entry) => entry.isDirectory() && filesUnder(join(root, 'src', entry.name)).length > 0)
      .map((entry) => entry.name);
    expect(folders.filter((folder) => !(folder in ALLOWED))).toEqual([]);
  });

  it('leave each package to its one owner', () => {
    const wrong = imports.filter(({ from, specifier }) => {
      const owner = Object.entries(OWNED_PACKAGES).find(
        ([name]) => specifier === name || specifier.startsWith(`${name}/`),
      );
      return owner !== undefined && ![owner[1]].flat().some((folder) => from.startsWith(folder));
    });
    expect(wrong.map(({ from, specifier }) => `${from} imports ${specifier}`)).toEqual([]);
  });

  it('are drawn in ARCHITECTURE.md as they are', () => {
    const drawn = new Map(
      [...readFileSync(join(root, 'ARCHITECTURE.md'), 'utf8').matchAll(/^\| `(\w+)\/`\s*\|([^|]*)\|/gm)].map(
        (row) => [row[1]!, [...row[2]!.matchAll(/\w+/g)].map((word) => word[0]).sort()],
      ),
    );
    const actual = new Map<string, Set<string>>();
    for (const file of sources) if (file !== ENTRY_POINT) actual.set(folderOf(file), new Set());
    for (const { from, to } of edges()) actual.get(from)?.add(to);
    expect(Object.fromEntries(drawn)).toEqual(
      Object.fromEntries([...actual].map(([folder, targets]) => [folder, [...targets].sort()])),
    );
  });

  it('never leave the process environment or arguments to anything but the command line', () => {
    const readers = sources.filter(
      (path) =>
        !path.startsWith('src/cli/') &&
        /process\.(env|argv|exit)\b/.test(readFileSync(join(root, path), 'utf8')),
    );
    // Native code can be told in no other way.
    expect(readers).toEqual(['src/engine/no-telemetry.ts']);
  });

  it('contain no barrels and no default exports', () => {
    const wrong = sources.filter((path) => {
      const text = readFileSync(join(root, path), 'utf8');
      return /^export \* from/m.test(text) || /^export default/m.test(text);
    });
    expect(wrong).toEqual([]);
  });
});

/** Every import from one folder of src into another. */
function edges(): { file: string; from: string; to: string }[] {
  return imports
    .filter(({ from, specifier }) => specifier.startsWith('.') && from !== ENTRY_POINT)
    .map(({ from, specifier }) => ({
      file: from,
      from: folderOf(from),
      to: folderOf(posix.join(posix.dirname(from), specifier)),
    }))
    .filter(({ from, to }) => from !== to);
}

function folderOf(path: string): string {
  return path.split('/')[1]!;
}

function filesUnder(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory() ? filesUnder(join(folder, entry.name)) : [join(folder, entry.name)],
  );
}
