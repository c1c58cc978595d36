import { writeAtomically } from './atomic.ts';
import { VersionNotFoundError } from './errors.ts';
import { manifestText } from './manifest.ts';
import { manifestPathOf, readManifest } from './store.ts';
import { withTaskLock } from './task-lock.ts';
import type { Profile, TaskManifest } from './types.ts';

/** What was measured of one network on one target, wherever the network stands in its family by now. */
export interface MeasuredProfile {
  /** Of the network. */
  readonly digest: string;
  /** Of the target. */
  readonly fingerprint: string;
  /** The new profile, from the one that is there when it is written. May be called more than once, and changes nothing else. */
  readonly merge: (known: Profile | undefined) => Profile;
}

/** The family with these profiles. Those of networks that it no longer has are left out. Pure. */
export function withProfiles(manifest: TaskManifest, measured: readonly MeasuredProfile[]): TaskManifest {
  return {
    ...manifest,
    variants: manifest.variants.map((variant) => {
      const own = measured.filter(({ digest }) => digest === variant.digest);
      if (own.length === 0) return variant;
      const profiles: Record<string, Profile> = { ...variant.profiles };
      for (const { fingerprint, merge } of own) profiles[fingerprint] = merge(profiles[fingerprint]);
      return { ...variant, profiles };
    }),
  };
}

/**
 * Of the profiles that two descriptions have of a network, the one that was measured last; those of a network or a target
 * that only one of them knows stay. The family is the first one's.
 */
export function withNewerProfiles(manifest: TaskManifest, other: TaskManifest): TaskManifest {
  return withProfiles(
    manifest,
    other.variants.flatMap(({ digest, profiles }) =>
      Object.entries(profiles).map(([fingerprint, theirs]) => ({
        digest,
        fingerprint,
        merge: (own: Profile | undefined) =>
          own === undefined || own.measuredAt < theirs.measuredAt ? theirs : own,
      })),
    ),
  );
}

/**
 * Writes profiles into a folder; several processes may do so at once. The networks are left alone.
 * @returns the manifest as written
 * @throws ModelNotFoundError, CorruptRepositoryError; BonsaiError `unwritable_path`, `already_running`
 */
export async function amendProfiles(
  root: string,
  task: string,
  measured: readonly MeasuredProfile[],
): Promise<TaskManifest> {
  await readManifest(root, task); // A task that is not there has no place for a lock either.
  return withTaskLock(root, task, async () => {
    const manifest = withProfiles(await readManifest(root, task), measured);
    await writeAtomically(manifestPathOf(root, task), manifestText(manifest));
    return manifest;
  });
}

/** Replaces or adds profiles, by version; the networks are left alone. @returns the manifest as written */
export async function updateProfiles(
  root: string,
  task: string,
  profiles: ReadonlyMap<number, Profile>,
): Promise<TaskManifest> {
  const { variants } = await readManifest(root, task);
  const measured = [...profiles].map(([version, profile]) => {
    const variant = variants.find((each) => each.version === version);
    if (variant === undefined)
      throw new VersionNotFoundError(
        task,
        version,
        variants.map((each) => each.version),
      );
    return { digest: variant.digest, fingerprint: profile.target.fingerprint, merge: () => profile };
  });
  return amendProfiles(root, task, measured);
}
