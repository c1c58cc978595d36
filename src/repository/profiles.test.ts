import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { amendProfiles, withNewerProfiles, withProfiles } from './profiles.ts';
import { writeRandomTask } from './s3/tasks.fixture.ts';
import { readManifest } from './store.ts';
import type { Profile, TaskManifest } from './types.ts';

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'bonsai-profiles-'));
});
afterEach(() => rm(root, { recursive: true }));

/** That of the fixture, on another target. */
function profileOn({ variants }: TaskManifest, fingerprint: string, measuredAt = '2026-01-01'): Profile {
  const [profile] = Object.values(variants[0]!.profiles);
  return { ...profile!, measuredAt, target: { ...profile!.target, fingerprint } };
}

it('keeps what many bring at once for one family in a folder', async () => {
  const { manifest } = await writeRandomTask(root, 'digits', [30, 20]);
  const targets = Array.from({ length: 12 }, (_, i) => `target-${i}`);
  await Promise.all(
    targets.flatMap((fingerprint) =>
      manifest.variants.map(({ digest }) =>
        amendProfiles(root, 'digits', [
          { digest, fingerprint, merge: () => profileOn(manifest, fingerprint) },
        ]),
      ),
    ),
  );
  const { variants } = await readManifest(root, 'digits');
  for (const { profiles } of variants) expect(Object.keys(profiles)).toEqual(expect.arrayContaining(targets));
  await expect(amendProfiles(root, 'bees', [])).rejects.toMatchObject({ code: 'model_not_found' });
});

it('builds on the profile that is there by then, and leaves out networks that are gone', async () => {
  const { manifest } = await writeRandomTask(root, 'digits', [30]);
  const { digest } = manifest.variants[0]!;
  const part = (memoryBytes: number) => ({
    digest,
    fingerprint: 'x',
    merge: (known?: Profile) => ({ ...profileOn(manifest, 'x'), ...known, memoryBytes }),
  });
  const once = withProfiles(manifest, [
    { digest, fingerprint: 'x', merge: () => ({ ...profileOn(manifest, 'x'), loadMs: 3 }) },
  ]);
  expect(withProfiles(once, [part(7)]).variants[0]!.profiles.x).toMatchObject({ loadMs: 3, memoryBytes: 7 });
  expect(withProfiles(once, [{ ...part(7), digest: 'f'.repeat(64) }])).toEqual(once);
});

it('takes the newer one of two profiles, and the family of the first', async () => {
  const { manifest } = await writeRandomTask(root, 'digits', [30, 20]);
  const known = (...profiles: Profile[]) =>
    withProfiles(
      manifest,
      profiles.map((profile) => ({
        digest: manifest.variants[0]!.digest,
        fingerprint: profile.target.fingerprint,
        merge: () => profile,
      })),
    );
  const [old, recent] = ['2026-01-01', '2026-01-02'].map((day) => profileOn(manifest, 'x', day));
  const other = profileOn(manifest, 'y');
  for (const [own, theirs] of [
    [known(old!), known(recent!, other)],
    [known(recent!, other), known(old!)],
  ] as const)
    expect(withNewerProfiles(own, theirs).variants[0]!.profiles).toMatchObject({
      x: { measuredAt: '2026-01-02' },
      y: other,
    });
  const smaller = { ...manifest, variants: manifest.variants.slice(1) };
  expect(withNewerProfiles(smaller, known(old!))).toEqual(smaller);
});
