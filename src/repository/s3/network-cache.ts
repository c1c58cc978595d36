import { readdir, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemCodeOf } from '../../base/errors.ts';
import { makeFolder } from '../../base/make-folder.ts';
import { digestOfFile } from '../digest.ts';

export interface NetworkCacheOptions {
  /** May be shared by processes of one machine. */
  readonly folder: string;
  /** Past this, networks that nobody holds are removed, those not used for longest first. */
  readonly limitBytes: number;
  /** Known to the other processes that share the folder; by default this process' id. */
  readonly holder?: number;
}

/** 2 GB hold some hundred networks of the size that edge boxes serve. */
export const DEFAULT_CACHE_LIMIT_BYTES = 2e9;

/**
 * Networks on this machine, each under its digest, so that a file never changes. Who needs one holds it: what is held is
 * never removed, be the limit as it may, neither by this process nor by others that share the folder.
 */
export class NetworkCache {
  readonly #networks: string;
  readonly #markers: string;
  readonly #limitBytes: number;
  readonly #holder: number;
  readonly #holds = new Map<string, number>();
  /** Digests of files that this process has fetched or read through. */
  readonly #checked = new Set<string>();
  readonly #fetches = new Map<string, Promise<void>>();
  #evicting: Promise<void> = Promise.resolve();
  #bytes = 0;
  #evictions = 0;

  private constructor({ folder, limitBytes, holder = process.pid }: NetworkCacheOptions) {
    this.#networks = join(folder, 'networks');
    this.#markers = join(folder, 'held');
    this.#limitBytes = limitBytes;
    this.#holder = holder;
  }

  /** @throws the system's error where the folder cannot be made */
  static async open(options: NetworkCacheOptions): Promise<NetworkCache> {
    const cache = new NetworkCache(options);
    await makeFolder(cache.#networks);
    await makeFolder(cache.#markers);
    await cache.#evict();
    return cache;
  }

  /** Of all networks and unfinished downloads, when it was last counted. */
  get bytes(): number {
    return this.#bytes;
  }

  get evictions(): number {
    return this.#evictions;
  }

  /** Where a network lies if it is here. @param digest SHA-256, as manifests have it */
  pathOf(digest: string): string {
    return join(this.#networks, `${digest}.onnx`);
  }

  async has(digest: string, sizeBytes: number): Promise<boolean> {
    const status = await stat(this.pathOf(digest)).catch(() => undefined);
    return status?.isFile() === true && status.size === sizeBytes;
  }

  /**
   * Makes sure that a network is here and stays until it is let go.
   * @param fetch brings it to the path, whole and checked, or rejects
   * @returns lets it go; further calls do nothing
   */
  async hold(digest: string, sizeBytes: number, fetch: (path: string) => Promise<void>): Promise<() => void> {
    await this.#mark(digest);
    let isHeld = true;
    const release = () => {
      if (!isHeld) return;
      isHeld = false;
      void this.#unmark(digest);
    };
    try {
      if (!(await this.#isSound(digest, sizeBytes))) await this.#fetchOnce(digest, fetch);
      const now = new Date();
      await utimes(this.pathOf(digest), now, now).catch(() => undefined); // Only the order of eviction suffers.
      return release;
    } catch (thrown) {
      release();
      throw thrown;
    }
  }

  /** Waits until removals that are under way are done. */
  async settled(): Promise<void> {
    await this.#evicting;
  }

  /** Whether the file is here and is what its name says; read through once, since disks err. */
  async #isSound(digest: string, sizeBytes: number): Promise<boolean> {
    if (!(await this.has(digest, sizeBytes))) return false;
    if (this.#checked.has(digest) || this.#fetches.has(digest)) return true;
    const found = await digestOfFile(this.pathOf(digest)).catch(() => undefined);
    if (found === digest) this.#checked.add(digest);
    return found === digest;
  }

  async #fetchOnce(digest: string, fetch: (path: string) => Promise<void>): Promise<void> {
    let fetching = this.#fetches.get(digest);
    if (fetching === undefined) {
      fetching = fetch(this.pathOf(digest)).finally(() => this.#fetches.delete(digest));
      this.#fetches.set(digest, fetching);
    }
    await fetching;
    this.#checked.add(digest);
    void this.#evict();
  }

  async #mark(digest: string): Promise<void> {
    const count = this.#holds.get(digest) ?? 0;
    this.#holds.set(digest, count + 1);
    if (count === 0) await writeFile(this.#markerOf(digest), '').catch(() => undefined); // Others may then remove it: it is fetched again.
  }

  async #unmark(digest: string): Promise<void> {
    const count = this.#holds.get(digest) ?? 0;
    if (count > 1) {
      this.#holds.set(digest, count - 1);
      return;
    }
    this.#holds.delete(digest);
    await rm(this.#markerOf(digest), { force: true }).catch(() => undefined);
    if (this.#bytes > this.#limitBytes) void this.#evict();
  }

  #markerOf(digest: string): string {
    return join(this.#markers, `${digest}.${this.#holder}`);
  }

  /** One after the other. Never rejects: a cache that grows too large is better than a server that stops. */
  #evict(): Promise<void> {
    this.#evicting = this.#evicting.then(() => this.#removeOldest()).catch(() => undefined);
    return this.#evicting;
  }

  async #removeOldest(): Promise<void> {
    const files: { name: string; bytes: number; usedMs: number }[] = [];
    for (const name of await readdir(this.#networks)) {
      const status = await stat(join(this.#networks, name)).catch(() => undefined);
      if (status !== undefined) files.push({ name, bytes: status.size, usedMs: status.mtimeMs });
    }
    files.sort((a, b) => a.usedMs - b.usedMs);
    let total = files.reduce((sum, { bytes }) => sum + bytes, 0);
    for (const { name, bytes } of files) {
      if (total <= this.#limitBytes) break;
      const digest = name.split('.')[0]!;
      if (this.#fetches.has(digest) || (await this.#isHeld(digest))) continue;
      await rm(join(this.#networks, name), { force: true });
      this.#checked.delete(digest);
      total -= bytes;
      this.#evictions++;
    }
    this.#bytes = total;
  }

  async #isHeld(digest: string): Promise<boolean> {
    if (this.#holds.has(digest)) return true;
    for (const name of await readdir(this.#markers)) {
      if (!name.startsWith(`${digest}.`)) continue;
      const holder = Number(name.slice(digest.length + 1));
      if (holder !== this.#holder && isRunning(holder)) return true;
      // Left by a process that was killed.
      await rm(join(this.#markers, name), { force: true }).catch(() => undefined);
    }
    return false;
  }
}

function isRunning(processId: number): boolean {
  if (!Number.isSafeInteger(processId) || processId <= 0) return false;
  try {
    process.kill(processId, 0);
    return true;
  } catch (thrown) {
    return systemCodeOf(thrown) === 'EPERM'; // It runs, as somebody else.
  }
}
