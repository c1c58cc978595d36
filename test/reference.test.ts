import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { commandReference } from '../docs/generate/command-reference.ts';
import { configurationReference, ENVIRONMENT } from '../docs/generate/configuration-reference.ts';
import { errorReference } from '../docs/generate/error-reference.ts';
import { allCommands, bonsaiProgram } from '../src/cli/program.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const page = (name: string) => join(root, 'docs/reference', name);

// A page that is stale is written anew by `npm run docs`.
describe('the reference', () => {
  it('of commands is what their parsers say', async () => {
    const text = commandReference(bonsaiProgram(), await allCommands());
    await expect(text).toMatchFileSnapshot(page('commands.md'));
  });

  it('of configuration is what the schemas say', async () => {
    await expect(configurationReference(await allCommands())).toMatchFileSnapshot(page('configuration.md'));
  });

  it('of errors has every code with its statuses', async () => {
    await expect(errorReference()).toMatchFileSnapshot(page('errors.md'));
  });

  it('names every variable of the environment that is read', () => {
    const sources = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
      .filter((path) => path.endsWith('.ts') && !/\.(test|fixture)\.ts$/.test(path))
      .map((path) => readFileSync(join(root, 'src', path), 'utf8'));
    const read = sources.flatMap((text) => [
      ...[...text.matchAll(/process\.env\.(\w+)/g)].map(([, name]) => name!),
      ...[...text.matchAll(/const \{([^}]*)\} = process\.env/g)].flatMap(
        ([, names]) => names!.match(/\b[A-Z_]{2,}\b/g) ?? [],
      ),
    ]);
    // This one keeps the AWS client from warning about Node.js 20; nobody would set it.
    const wanted = new Set(
      read.filter((name) => name !== 'AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'),
    );
    expect([...wanted].sort()).toEqual(Object.keys(ENVIRONMENT).sort());
  });
});
