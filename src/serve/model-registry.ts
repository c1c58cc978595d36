import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import type { Clock } from '../base/clock.ts';
import { InvalidArgumentError, messageOf } from '../base/errors.ts';
import { ModelNotFoundError } from '../repository/errors.ts';
import {
  CONFIG_FILE,
  type ModelConfig,
  readLabels,
  readModelConfig,
  type VersionPolicy,
  type Warmup,
} from '../repository/model-config.ts';
import { isTaskName } from '../repository/names.ts';
import type { StoredTask } from '../repository/store.ts';
import type { TaskStore } from '../repository/task-store.ts';
import { InvalidRequestError, LoadFailedError, NotReadyError, UnknownTaskError } from './errors.ts';
import { type FileOverride, writeFileOverride } from './file-override.ts';
import type { Loader } from './loader.ts';
import { ServedModel, UNLOADED, type VersionSelection, type VersionState } from './served-model.ts';

/** Which version of each task serves first; tasks that are not named begin with the largest. */
export type InitialVersions = 'largest' | 'smallest' | Readonly<Record<string, number>>;

export interface IndexEntry {
  readonly name: string;
  readonly version?: string;
  readonly state?: VersionState;
  readonly reason?: string;
}

export interface RegistryOptions {
  readonly store: TaskStore;
  readonly slots: number;
  /** Threads of one inference, where a model's configuration says nothing else. Default 1. */
  readonly threads?: number;
  readonly loader: Loader;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly maxResidentVersions: number;
  readonly onChange: () => void;
  /** A version has left memory. */
  readonly onReleased: () => void;
  /** Who decides what is loaded. Default `explicit`. */
  readonly control?: ModelControl;
}

/**
 * Who decides what is loaded: nobody after the start (`none`), clients (`explicit`), or what lies in the repository
 * (`poll`). As Triton's model control modes.
 */
export type ModelControl = 'none' | 'explicit' | 'poll';

/** What a load request may bring with it. What it does not bring stays as it is. */
export interface Brought {
  readonly warmups?: readonly Warmup[];
  /** Networks in place of those of the repository, by `<version>/<name>`. */
  readonly files?: ReadonlyMap<string, Uint8Array>;
}

/** The tasks of a repository and what of them is loaded; the protocol-free side of the model repository extension. */
export class ModelRegistry {
  readonly #options: RegistryOptions;
  readonly #models = new Map<string, ServedModel>();
  /** Tasks that could not even be read, with the reason. */
  readonly #broken = new Map<string, string>();
  /** Networks that came with load requests, and what the repository held at that time. */
  readonly #overrides = new Map<string, { readonly files: FileOverride; readonly repository: string }>();
  /** What is selected because files came without a version policy, by task, and what was before: it comes back with the repository's own. */
  readonly #implied = new Map<
    string,
    { readonly selection: VersionSelection; readonly before: VersionSelection | undefined }
  >();
  /** What was selected at the start, or for want of it, as nobody asked for anything; by task. */
  readonly #initial = new Map<string, VersionSelection>();
  /** Tasks that were known and that clients have unloaded since. */
  readonly #letGo = new Set<string>();
  /** Warm-ups that came with load requests. */
  readonly #warmups = new Map<string, readonly Warmup[]>();
  /** What lay in the repository when it was last polled, by task. */
  #polled: ReadonlyMap<string, string> = new Map();
  /** Until the first loads are done: what has no status yet is about to get one. */
  #isStarting = true;

  constructor(options: RegistryOptions) {
    this.#options = options;
  }

  get models(): ReadonlyMap<string, ServedModel> {
    return this.#models;
  }

  /**
   * @throws ModelNotFoundError if nothing of that name was ever loaded; NotReadyError while the server starts and its
   * first version may yet come
   */
  get(name: string): ServedModel {
    const model = this.#models.get(name);
    const isComing =
      this.#isStarting &&
      model?.isReady !== true &&
      [...(model?.statuses.values() ?? [])].every(({ state }) => state === 'LOADING');
    if (model !== undefined && !isComing) return model;
    if (isComing)
      throw new NotReadyError(`'${name}' is not ready: the server is starting; try again in a moment`);
    throw new ModelNotFoundError(name);
  }

  /**
   * Whether a task is this server's to serve: it was loaded at the start or by a client, even if in vain, and nobody has
   * unloaded it since.
   */
  isHosted(name: string): boolean {
    return (this.#models.has(name) || this.#broken.has(name)) && !this.#letGo.has(name);
  }

  /** Whether something that was meant to serve does not: a version that failed, or one that is being tried again. */
  get isDegraded(): boolean {
    if (this.#broken.size > 0) return true;
    for (const model of this.#models.values()) {
      if (model.isReviving) return true;
      for (const { state, reason } of model.statuses.values())
        if (state === 'LOADING' || (state === 'UNAVAILABLE' && reason !== UNLOADED)) return true;
    }
    return false;
  }

  /** Whether a version that served was lost and is being tried again. */
  get isReviving(): boolean {
    for (const model of this.#models.values()) if (model.isReviving) return true;
    return false;
  }

  /** @throws NotReadyError unless clients decide what is loaded */
  checkControl(): void {
    const { control = 'explicit' } = this.#options;
    if (control === 'explicit') return;
    // Triton's wording and status, which its clients know.
    throw new NotReadyError(
      `explicit model load / unload is not allowed if polling is enabled; the model control mode is '${control}', start the server with 'explicit'`,
    );
  }

  /**
   * Loads tasks of the repository; one that fails is reported and leaves the others serving.
   * @param only their names; undefined: all
   * @throws InvalidArgumentError if `initial` or `only` names a task that is not there
   */
  async loadAll(initial: InitialVersions, only?: readonly string[]): Promise<void> {
    try {
      await this.#loadAll(initial, only);
    } finally {
      this.#isStarting = false;
    }
  }

  async #loadAll(initial: InitialVersions, only: readonly string[] | undefined): Promise<void> {
    const present = await this.#options.store.listTasks();
    for (const name of [...(typeof initial === 'string' ? [] : Object.keys(initial)), ...(only ?? [])]) {
      if (!present.includes(name)) {
        throw new InvalidArgumentError(
          `There is no task "${name}" in ${this.#options.store.name}; it has ${present.join(', ') || 'none'}.`,
        );
      }
    }
    for (const folder of await this.#options.store.listFolders()) {
      if (!present.includes(folder))
        this.#options.logger.warn(
          { folder },
          isTaskName(folder)
            ? 'folder is no task: it has neither bonsai.json nor VERSION/model.onnx'
            : 'folder is no task: its name cannot be that of a model',
        );
    }
    const tasks = only === undefined ? present : present.filter((name) => only.includes(name));
    if (this.#options.control === 'poll') this.#polled = await this.#fingerprints(present);
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
   * Loads a task as the repository has it now, all its selected versions, before it returns. Networks that came with an
   * earlier request stay as long as the repository's are unchanged.
   * @param selection by default the one before, or else the largest version
   * @param threads of one inference; by default as before
   * @throws NotReadyError unless clients decide what is loaded; InvalidRequestError, LoadFailedError
   */
  async load(
    name: string,
    selection?: VersionSelection,
    threads?: number,
    { files, warmups }: Brought = {},
  ): Promise<void> {
    this.checkControl();
    this.#letGo.delete(name);
    if (files !== undefined) return this.#loadFiles(name, files, selection, threads, warmups);
    const stored = await this.#readToLoad(name, selection, warmups);
    const model = this.#model(name);
    const chosen = selection ?? this.#selectionOf(model, stored);
    if (chosen === undefined) await this.#loadInitial(name, 'largest', threads, warmups);
    else {
      this.#checkRoom(model, stored, chosen);
      await model.select(stored, chosen, threads);
      this.#broken.delete(name);
    }
    if (warmups !== undefined) this.#warmups.set(name, warmups);
    if (stored !== this.#overrides.get(name)?.files.stored) await this.#dropOverride(name);
  }

  /** What a plain load means: what was selected last, unless that held for files that are given up. */
  #selectionOf({ name, selection }: ServedModel, stored: StoredTask): VersionSelection | undefined {
    const implied = this.#implied.get(name);
    const isGivenUp = stored !== this.#overrides.get(name)?.files.stored;
    return isGivenUp && implied !== undefined && implied.selection === selection ? implied.before : selection;
  }

  /** Unloading what is unknown is no error, as in Triton. @throws NotReadyError unless clients decide what is loaded */
  async unload(name: string): Promise<void> {
    this.checkControl();
    if (this.isHosted(name)) this.#letGo.add(name);
    await this.#models.get(name)?.unload();
    await this.#dropOverride(name);
  }

  /**
   * Looks for what has changed in the repository since the last time: loads new tasks, loads changed ones anew, unloads
   * those that are gone. What fails is in the log and the index, and is tried again when it changes.
   */
  async poll(initial: InitialVersions): Promise<void> {
    const now = await this.#fingerprints(await this.#options.store.listTasks());
    const before = this.#polled;
    this.#polled = now;
    for (const [name, fingerprint] of now) {
      if (before.get(name) === fingerprint) continue;
      const model = this.#models.get(name);
      try {
        if (model?.selection === undefined || !model.isReady) await this.#loadInitial(name, initial);
        else await this.#reload(model, initial);
      } catch (thrown) {
        if (model?.isReady !== true) this.#broken.set(name, messageOf(thrown));
        this.#options.logger.error(
          { model: name, reason: messageOf(thrown) },
          'changed task cannot be loaded',
        );
      }
    }
    for (const name of before.keys()) {
      if (now.has(name)) continue;
      this.#broken.delete(name);
      await this.#models.get(name)?.unload();
      this.#options.logger.info({ model: name }, 'task is gone from the repository and was unloaded');
    }
  }

  /** As at the start where nobody has chosen since, else by what serves now if that is still there. */
  async #reload(model: ServedModel, initial: InitialVersions): Promise<void> {
    const { name, selection } = model;
    const stored = await this.#read(name);
    const isThere =
      selection !== undefined &&
      (selection.kind !== 'specific' ||
        selection.versions.every((version) => stored.versions.some((entry) => entry.version === version)));
    if (!isThere || stored.configuredSelection !== undefined) return this.#loadInitial(name, initial);
    const better = this.#initialOf(model, stored, initial);
    if (better !== undefined) {
      try {
        this.#checkRoom(model, stored, better);
        await model.select(stored, better);
        this.#initial.set(name, better);
        this.#broken.delete(name);
        return;
      } catch {
        // It is in the log and the index. What serves goes on, as the repository has it now.
      }
    }
    this.#checkRoom(model, stored, selection);
    await model.select(stored, selection);
    this.#broken.delete(name);
  }

  /** Where nobody has chosen since the start: what would be chosen now, were it the start. */
  #initialOf(
    { name, selection }: ServedModel,
    stored: StoredTask,
    initial: InitialVersions,
  ): VersionSelection | undefined {
    if (selection === undefined || this.#initial.get(name) !== selection) return undefined;
    const wish = typeof initial === 'string' ? initial : initial[name];
    const version = orderOf(stored, wish).find((wanted) =>
      stored.versions.some((entry) => entry.version === wanted),
    );
    return version === undefined ? undefined : { kind: 'specific', versions: [version] };
  }

  async #fingerprints(tasks: readonly string[]): Promise<Map<string, string>> {
    const fingerprints = new Map<string, string>();
    for (const name of tasks) fingerprints.set(name, await fingerprintOf(this.#options.store, name));
    return fingerprints;
  }

  async #loadFiles(
    name: string,
    files: ReadonlyMap<string, Uint8Array>,
    wanted: VersionSelection | undefined,
    threads: number | undefined,
    warmups: readonly Warmup[] | undefined,
  ): Promise<void> {
    if (!isTaskName(name)) throw new InvalidRequestError(`'${name.slice(0, 80)}' cannot name a model`);
    const repository = await fingerprintOf(this.#options.store, name);
    const written = await writeFileOverride(name, files);
    const isKnown = this.#models.has(name);
    const model = this.#model(name);
    try {
      const stored = { ...written.stored, warmups };
      const selection = wanted ?? { kind: 'latest', count: 1 };
      const selected = this.#selectionOf(model, stored);
      this.#checkRoom(model, stored, selection);
      await model.select(stored, selection, threads);
      if (wanted === undefined) this.#implied.set(name, { selection, before: selected });
      const before = this.#overrides.get(name);
      this.#overrides.set(name, { files: { ...written, stored }, repository });
      this.#broken.delete(name);
      await before?.files.dispose();
    } catch (thrown) {
      await written.dispose();
      if (!isKnown && model.statuses.size === 0) this.#models.delete(name);
      throw thrown;
    }
  }

  async #dropOverride(name: string): Promise<void> {
    const override = this.#overrides.get(name);
    this.#overrides.delete(name);
    await override?.files.dispose();
  }

  /**
   * Every task of the repository, by version where it was ever loaded. While the server starts, a task whose turn has
   * not come is LOADING without a version: an orchestrator must not take it for one that nobody loads.
   */
  async index(): Promise<IndexEntry[]> {
    const names = new Set([...(await this.#options.store.listTasks()), ...this.#models.keys()]);
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
    await Promise.all([...this.#overrides.keys()].map((name) => this.#dropOverride(name)));
  }

  /** Tries the wanted version, then the others from the most accurate down, until one loads. */
  async #loadInitial(
    name: string,
    initial: InitialVersions,
    threads?: number,
    warmups?: readonly Warmup[],
  ): Promise<void> {
    const stored = await this.#read(name, warmups);
    for (const { error } of stored.problems) this.#options.logger.error({ model: name }, error.message);
    const model = this.#model(name);
    const wish = typeof initial === 'string' ? initial : initial[name];
    const { configuredSelection: configured } = stored;
    if (configured !== undefined && typeof wish !== 'number' && wish !== 'smallest') {
      this.#checkRoom(model, stored, configured);
      await model.select(stored, configured, threads);
      this.#broken.delete(name);
      return;
    }
    let firstFailure: unknown;
    for (const version of orderOf(stored, wish)) {
      try {
        this.#checkRoom(model, stored, { kind: 'specific', versions: [version] });
        const selection: VersionSelection = { kind: 'specific', versions: [version] };
        await model.select(stored, selection, threads);
        this.#initial.set(name, selection);
        this.#broken.delete(name);
        return;
      } catch (thrown) {
        firstFailure ??= thrown;
      }
    }
    const reasons = stored.problems.map(({ error }) => error.message).join('; ');
    throw firstFailure ?? new LoadFailedError(name, reasons || 'it has no version');
  }

  /**
   * What a load is made of. A task that serves and cannot be read any more goes on as it is; the log says why it was not
   * loaded anew.
   */
  async #readToLoad(
    name: string,
    selection: VersionSelection | undefined,
    warmups: readonly Warmup[] | undefined,
  ): Promise<ReadTask> {
    const override = this.#overrides.get(name);
    if (override !== undefined) {
      const repository = await fingerprintOf(this.#options.store, name);
      const isUnchanged = override.repository === repository && selection === undefined;
      if (isUnchanged || repository === ABSENT) return override.files.stored;
    }
    try {
      return await this.#read(name, warmups);
    } catch (thrown) {
      if (this.#models.has(name))
        this.#options.logger.error({ model: name, reason: messageOf(thrown) }, 'task cannot be read');
      throw thrown;
    }
  }

  async #read(name: string, warmups?: readonly Warmup[]): Promise<ReadTask> {
    if (!isTaskName(name)) {
      throw new InvalidRequestError(`failed to load '${name}': that is no name of a model`);
    }
    try {
      const stored = await this.#options.store.readTask(name);
      return await this.#withConfig(stored, warmups ?? this.#warmups.get(name));
    } catch (thrown) {
      if (!(thrown instanceof ModelNotFoundError)) throw thrown;
      throw new UnknownTaskError(name, thrown);
    }
  }

  /**
   * Adds what the task's Triton configuration says. A family is described by its manifest, so that damage to its
   * configuration is only reported; a folder without manifest has nothing else, and is refused.
   */
  async #withConfig(stored: StoredTask, warmups: readonly Warmup[] | undefined): Promise<ReadTask> {
    const { store, logger } = this.#options;
    const root = store.folder;
    const { task } = stored;
    const hadManifest = this.#models.get(task)?.stored?.manifest !== undefined;
    if (stored.manifest === undefined && (hadManifest || this.#models.get(task)?.stored === undefined)) {
      logger.warn(
        { model: task },
        hadManifest
          ? 'the manifest (bonsai.json) of the task is gone: accuracies and digests are unknown from now on'
          : 'the task has no manifest (bonsai.json): accuracies and digests of its versions are unknown',
      );
    }
    const folder = join(root, task);
    let config: ModelConfig | undefined;
    let labels: ReadonlyMap<string, readonly string[]> | undefined;
    try {
      config = await readModelConfig(root, task);
      if (config !== undefined && stored.manifest === undefined)
        labels = await readLabels(root, task, config);
    } catch (thrown) {
      logger.error(
        { model: task, reason: messageOf(thrown) },
        'the configuration of the task cannot be used',
      );
      if (stored.manifest === undefined)
        throw new LoadFailedError(task, messageOf(thrown), { cause: thrown });
    }
    return {
      ...stored,
      folder,
      labels,
      warmups: warmups ?? config?.warmups,
      configuredSelection: stored.manifest === undefined ? selectionOf(config?.versionPolicy) : undefined,
    };
  }

  #model(name: string): ServedModel {
    let model = this.#models.get(name);
    if (model === undefined) {
      const { slots, threads, loader, logger, clock, onChange, onReleased } = this.#options;
      model = new ServedModel({ name, slots, threads, loader, logger, clock, onChange, onReleased });
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

/** A task with what its configuration adds. */
interface ReadTask extends StoredTask {
  /** The versions that a configuration names, where there is no manifest. */
  readonly configuredSelection?: VersionSelection;
}

/** Of a task that is not in the repository. */
const ABSENT = 'absent';

/** Changes when anything that a load depends on may have changed. */
async function fingerprintOf(store: TaskStore, task: string): Promise<string> {
  try {
    const { versions, problems, manifest } = await store.readTask(task);
    const config = await stat(join(store.folder, task, CONFIG_FILE)).catch(() => undefined);
    return JSON.stringify([
      manifest !== undefined,
      versions.map(({ version, identity }) => [version, identity]),
      problems.map(({ version, error }) => [version, error.message]),
      config === undefined ? null : [config.size, config.mtimeMs],
    ]);
  } catch (thrown) {
    return thrown instanceof ModelNotFoundError ? ABSENT : messageOf(thrown);
  }
}

/** The versions that a policy of a configuration means. */
export function selectionOf(policy: VersionPolicy | undefined): VersionSelection | undefined {
  if (policy === undefined) return undefined;
  if ('specific' in policy) return { kind: 'specific', versions: policy.specific.versions };
  if ('latest' in policy) return { kind: 'latest', count: policy.latest.num_versions };
  return { kind: 'all' };
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
