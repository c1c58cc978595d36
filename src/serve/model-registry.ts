import type { Logger } from 'pino';
import type { Clock } from '../base/clock.ts';
import { BonsaiError, InvalidArgumentError, messageOf } from '../base/errors.ts';
import { ModelNotFoundError } from '../repository/errors.ts';
import { isTaskName } from '../repository/names.ts';
import { listTasks, readTask, type StoredTask } from '../repository/store.ts';
import { LoadFailedError, NotReadyError } from './errors.ts';
import type { Loader } from './loader.ts';
import { ServedModel, type VersionSelection, type VersionState } from './served-model.ts';

/** Which version of each task serves first; tasks that are not named begin with the largest. */
export type InitialVersions = 'largest' | 'smallest' | Readonly<Record<string, number>>;

export interface IndexEntry {
  readonly name: string;
  readonly version?: string;
  readonly state?: VersionState;
  readonly reason?: string;
}

export interface RegistryOptions {
  readonly root: string;
  readonly slots: number;
  readonly loader: Loader;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly maxResidentVersions: number;
  readonly onChange: () => void;
}

/** The tasks of a repository and what of them is loaded; the protocol-free side of the model repository extension. */
export class ModelRegistry {
  readonly #options: RegistryOptions;
  readonly #models = new Map<string, ServedModel>();
  /** Tasks that could not even be read, with the reason. */
  readonly #broken = new Map<string, string>();
  /** Until the first loads are done: what has no status yet is about to get one. */
  #isStarting = true;

  constructor(options: RegistryOptions) {
    this.#options = options;
  }

  get models(): ReadonlyMap<string, ServedModel> {
    return this.#models;
  }

  /** @throws ModelNotFoundError if nothing of that name was ever loaded; NotReadyError while that may be about to happen */
  get(name: string): ServedModel {
    const model = this.#models.get(name);
    if (model !== undefined) return model;
    if (this.#isStarting)
      throw new NotReadyError(`'${name}' is not ready: the server is starting; try again in a moment`);
    throw new ModelNotFoundError(name);
  }

  /**
   * Loads every task of the repository; one that fails is reported and leaves the others serving.
   * @throws InvalidArgumentError if `initial` names a task that is not there
   */
  async loadAll(initial: InitialVersions): Promise<void> {
    try {
      await this.#loadAll(initial);
    } finally {
      this.#isStarting = false;
    }
  }

  async #loadAll(initial: InitialVersions): Promise<void> {
    const tasks = await listTasks(this.#options.root);
    for (const name of typeof initial === 'string' ? [] : Object.keys(initial)) {
      if (!tasks.includes(name)) {
        throw new InvalidArgumentError(
          `There is no task "${name}" in ${this.#options.root}; it has ${tasks.join(', ') || 'none'}.`,
        );
      }
    }
    for (const name of tasks) {
      try {
        await this.#loadInitial(name, initial);
      } catch (thrown) {
        this.#broken.set(name, messageOf(thrown));
        this.#options.logger.error({ model: name, reason: messageOf(thrown) }, 'task cannot be served');
      }
    }
  }

  /**
   * Loads a task as the repository has it now, all its selected versions, before it returns.
   * @param selection by default the one before, or else the largest version
   */
  async load(name: string, selection?: VersionSelection): Promise<void> {
    const stored = await this.#readToLoad(name);
    const model = this.#model(name);
    const chosen = selection ?? model.selection;
    if (chosen === undefined) return this.#loadInitial(name, 'largest');
    this.#checkRoom(model, stored, chosen);
    await model.select(stored, chosen);
    this.#broken.delete(name);
  }

  /** Unloading what is unknown is no error, as in Triton. */
  async unload(name: string): Promise<void> {
    await this.#models.get(name)?.unload();
  }

  /**
   * Every task of the repository, by version where it was ever loaded. While the server starts, a task whose turn has
   * not come is LOADING without a version: an orchestrator must not take it for one that nobody loads.
   */
  async index(): Promise<IndexEntry[]> {
    const names = new Set([...(await listTasks(this.#options.root)), ...this.#models.keys()]);
    return [...names].sort().flatMap((name): IndexEntry[] => {
      const statuses = [...(this.#models.get(name)?.statuses ?? [])].sort(([a], [b]) => a - b);
      if (statuses.length > 0) {
        return statuses.map(([version, { state, reason }]) => ({
          name,
          version: String(version),
          state,
          ...(reason === undefined ? {} : { reason }),
        }));
      }
      const reason = this.#broken.get(name);
      if (reason !== undefined) return [{ name, state: 'UNAVAILABLE', reason }];
      return [this.#isStarting ? { name, state: 'LOADING', reason: 'the server is starting' } : { name }];
    });
  }

  async close(): Promise<void> {
    await Promise.all([...this.#models.values()].map((model) => model.close()));
  }

  /** Tries the wanted version, then the others from the most accurate down, until one loads. */
  async #loadInitial(name: string, initial: InitialVersions): Promise<void> {
    const stored = await this.#read(name);
    for (const { error } of stored.problems) this.#options.logger.error({ model: name }, error.message);
    const model = this.#model(name);
    let firstFailure: unknown;
    for (const version of orderOf(stored, typeof initial === 'string' ? initial : initial[name])) {
      try {
        this.#checkRoom(model, stored, { kind: 'specific', versions: [version] });
        await model.select(stored, { kind: 'specific', versions: [version] });
        this.#broken.delete(name);
        return;
      } catch (thrown) {
        firstFailure ??= thrown;
      }
    }
    throw (
      firstFailure ?? new LoadFailedError(name, stored.problems.map(({ error }) => error.message).join('; '))
    );
  }

  /** A task that serves and cannot be read any more goes on as it is; the log says why it was not loaded anew. */
  async #readToLoad(name: string): Promise<StoredTask> {
    try {
      return await this.#read(name);
    } catch (thrown) {
      if (this.#models.has(name))
        this.#options.logger.error({ model: name, reason: messageOf(thrown) }, 'task cannot be read');
      throw thrown;
    }
  }

  async #read(name: string): Promise<StoredTask> {
    try {
      if (!isTaskName(name)) throw new ModelNotFoundError(name);
      return await readTask(this.#options.root, name);
    } catch (thrown) {
      if (!(thrown instanceof ModelNotFoundError)) throw thrown;
      // Triton's wording and status (500), which its clients know.
      throw new BonsaiError(
        'missing_file',
        `failed to load '${name}', failed to poll from model repository`,
        { cause: thrown },
      );
    }
  }

  #model(name: string): ServedModel {
    let model = this.#models.get(name);
    if (model === undefined) {
      const { slots, loader, logger, clock, onChange } = this.#options;
      model = new ServedModel({ name, slots, loader, logger, clock, onChange });
      this.#models.set(name, model);
    }
    return model;
  }

  #checkRoom(model: ServedModel, stored: StoredTask, selection: VersionSelection): void {
    const wanted = {
      specific: selection.kind === 'specific' ? selection.versions.length : 0,
      latest: selection.kind === 'latest' ? selection.count : 0,
      all: stored.versions.length,
    }[selection.kind];
    let others = 0;
    for (const other of this.#models.values()) if (other !== model) others += other.liveVersions.length;
    const limit = this.#options.maxResidentVersions;
    if (others + Math.min(wanted, stored.versions.length) <= limit) return;
    throw new LoadFailedError(
      model.name,
      `${others} versions of other tasks and ${wanted} of this one exceed the limit of ${limit} in memory; unload some first`,
    );
  }
}

/** Versions in the order to try. Without a manifest nothing tells them apart, so the highest number leads, as in Triton. */
function orderOf(stored: StoredTask, wish: 'largest' | 'smallest' | number | undefined): number[] {
  const byAccuracy = stored.versions
    .toSorted((a, b) =>
      a.variant !== undefined && b.variant !== undefined
        ? b.variant.accuracy.test - a.variant.accuracy.test || b.variant.macs - a.variant.macs
        : b.version - a.version,
    )
    .map((entry) => entry.version);
  if (typeof wish === 'number') return [wish, ...byAccuracy.filter((version) => version !== wish)];
  if (wish !== 'smallest' || stored.manifest === undefined) return byAccuracy;
  const smallest = stored.versions.toSorted((a, b) => (a.variant?.macs ?? 0) - (b.variant?.macs ?? 0))[0];
  return smallest === undefined
    ? []
    : [smallest.version, ...byAccuracy.filter((version) => version !== smallest.version).reverse()];
}
