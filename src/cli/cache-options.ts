import { createHash } from 'node:crypto';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { parseS3Url } from '../repository/s3/s3-url.ts';
import { parseBytes } from './parse.ts';

/** Of commands that read a repository in a bucket. */
export interface CacheOptions {
  readonly cache?: string;
  readonly cacheLimit: number;
}

/** As `DEFAULT_CACHE_LIMIT_BYTES`, which is not loaded for its number alone. */
const DEFAULT_LIMIT = '2GB';

export function addCacheOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--cache <dir>',
        'for repositories in a bucket (s3://…): what is kept of them here (default: bonsai in the cache folder of the user)',
      ),
    )
    .addOption(
      new Option(
        '--cache-limit <size>',
        'past this, cached networks that do not serve are removed, those not used for longest first',
      )
        .argParser(parseBytes)
        .default(parseBytes(DEFAULT_LIMIT), DEFAULT_LIMIT),
    );
}

/** Where a bucket is cached. */
export function cacheFolderOf({ cache }: Pick<CacheOptions, 'cache'>): string {
  return cache ?? join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'bonsai');
}

/** Where the descriptions of one bucket's tasks are kept: another URL has another folder. */
export function mirrorFolderOf(cacheFolder: string, url: string): string {
  const { bucket, prefix, endpoint = '' } = parseS3Url(url);
  const name = createHash('sha256')
    .update(JSON.stringify([endpoint, bucket, prefix]))
    .digest('hex');
  return join(cacheFolder, 'repositories', name.slice(0, 16));
}
