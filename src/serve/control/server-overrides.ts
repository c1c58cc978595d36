import type { TaskObjective } from '../../policy/policy.ts';
import { ModelNotFoundError, VersionNotFoundError } from '../../repository/errors.ts';
import type { DataPlane } from '../data-plane.ts';
import type { ModelRegistry } from '../model-registry.ts';
import type { ServedModel } from '../served-model.ts';
import { type Overrides, type TaskOverride, withOverride } from './overrides.ts';

/**
 * Changes the tasks of a server in this process. A pinned version is loaded at once where nobody else decides what is
 * loaded; where a policy does, it finds the pin at its next look. Nothing is kept beyond the end of the program.
 */
export class ServerOverrides implements Overrides {
  readonly #models: ModelRegistry;
  readonly #plane: DataPlane;
  #objectives: ReadonlyMap<string, TaskObjective> = new Map();
  #byTask: ReadonlyMap<string, TaskOverride> = new Map();
  /** Name of the policy in this process that looks at `byTask` and loads what is pinned; undefined: none does. */
  followedBy: string | undefined;

  constructor(models: ModelRegistry, plane: DataPlane) {
    this.#models = models;
    this.#plane = plane;
  }

  get byTask(): ReadonlyMap<string, TaskOverride> {
    return this.#byTask;
  }

  /** What is asked of single tasks where nobody has said otherwise by hand. */
  setObjectives(objectives: ReadonlyMap<string, TaskObjective>): void {
    this.#objectives = objectives;
    this.#apply();
  }

  async pin(task: string, version: number | undefined): Promise<void> {
    const model = this.#models.models.get(task);
    if (model === undefined) throw new ModelNotFoundError(task);
    this.#models.checkControl();
    const known = model.stored?.versions.map((stored) => stored.version) ?? [];
    if (version !== undefined && !known.includes(version))
      throw new VersionNotFoundError(task, version, known);
    if (version !== undefined && this.followedBy === undefined)
      await this.#models.load(task, { kind: 'specific', versions: [version] });
    this.#byTask = withOverride(this.#byTask, task, { version });
  }

  /** Where no policy holds to it, a pin ends with the next load by anybody else. */
  pinnedOf({ name, current }: ServedModel): number | undefined {
    const version = this.#byTask.get(name)?.version;
    return this.followedBy !== undefined || current?.version === version ? version : undefined;
  }

  setSlo(task: string, sloMs: number | undefined): void {
    if (!this.#models.models.has(task)) throw new ModelNotFoundError(task);
    this.#byTask = withOverride(this.#byTask, task, { sloMs });
    this.#apply();
  }

  #apply(): void {
    const objectives = new Map(this.#objectives);
    for (const [task, { sloMs }] of this.#byTask)
      if (sloMs !== undefined) objectives.set(task, { ...objectives.get(task), sloMs });
    this.#plane.setObjectives(objectives);
  }
}
