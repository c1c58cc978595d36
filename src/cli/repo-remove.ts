import { Command, Option } from 'commander';
import { InvalidArgumentError } from '../base/errors.ts';
import { VersionNotFoundError } from '../repository/errors.ts';
import { onAnyFrontier } from '../repository/frontier.ts';
import { readManifest, writeTask } from '../repository/store.ts';
import type { TaskManifest, Variant } from '../repository/types.ts';
import { processContext } from './context.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { jsonOption } from './options.ts';
import { parseInteger } from './parse.ts';

interface RemoveOptions {
  readonly dominated?: boolean;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

/** What `repo remove` takes out of a family, and what stays. */
export interface Removal {
  readonly removed: readonly number[];
  readonly kept: readonly number[];
  /** Of the networks that are removed. */
  readonly freedBytes: number;
}

export function repoRemoveCommand(): Command {
  return new Command('remove')
    .description('take versions out of a family; the others keep their numbers')
    .argument('<repository>')
    .argument('<task>')
    .argument('[versions...]', 'version numbers')
    .addOption(
      new Option(
        '--dominated',
        'all that are on the frontier of no metric that was measured; networks that were not derived from others stay',
      ),
    )
    .addOption(new Option('--dry-run', 'only say what would be removed'))
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai repo remove models mnist 7 9
  $ bonsai repo remove models mnist --dominated --dry-run

A server that has one of them in memory goes on with it until it loads another one.
${EXIT_CODE_HELP}`,
    )
    .action(async (root: string, task: string, texts: string[], options: RemoveOptions) => {
      const context = processContext(options);
      const manifest = await readManifest(root, task);
      const removal = removalOf(manifest, texts.map(parseInteger(1)), options);
      if (options.dryRun !== true && removal.removed.length > 0)
        await writeTask(root, without(manifest, removal), new Map());
      const verb = options.dryRun ? 'would be removed' : 'removed';
      context.result(
        removal,
        removal.removed.length === 0
          ? `Nothing ${verb}: all ${removal.kept.length} versions of ${task} stay.`
          : `${verb}: ${removal.removed.join(', ')} (${(removal.freedBytes / 1e6).toFixed(1)} MB)\nkept: ${removal.kept.join(', ')}`,
      );
    });
}

/**
 * @throws InvalidArgumentError where nothing is named, or nothing would be left
 * @throws VersionNotFoundError for a version that the family does not have
 */
export function removalOf(
  { task, variants }: TaskManifest,
  versions: readonly number[],
  { dominated = false }: Pick<RemoveOptions, 'dominated'> = {},
): Removal {
  if (versions.length === 0 && !dominated)
    throw new InvalidArgumentError('Name the versions to remove, or give --dominated.');
  const known = variants.map(({ version }) => version);
  for (const version of versions)
    if (!known.includes(version)) throw new VersionNotFoundError(task, version, known);
  const best = new Set(onAnyFrontier(variants));
  const goes = (variant: Variant) =>
    versions.includes(variant.version) ||
    (dominated && !best.has(variant) && variant.lineage.parent !== undefined);
  const removed = variants.filter(goes);
  if (removed.length === variants.length) {
    throw new InvalidArgumentError(
      `A family has one version at least, and these are all ${variants.length} of ${task}. To remove the task, remove its folder.`,
    );
  }
  return {
    removed: removed.map(({ version }) => version),
    kept: variants.filter((variant) => !goes(variant)).map(({ version }) => version),
    freedBytes: removed.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
  };
}

function without(manifest: TaskManifest, { kept }: Removal): TaskManifest {
  return { ...manifest, variants: manifest.variants.filter(({ version }) => kept.includes(version)) };
}
