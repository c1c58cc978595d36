import { BonsaiError } from '../base/errors.ts';

/** A file of a repository that is damaged, half-written or of a newer schema. Names the file and, where known, the field. */
export class CorruptRepositoryError extends BonsaiError {
  readonly file: string;
  readonly field: string | undefined;

  constructor(options: { file: string; field?: string; problem: string; cause?: unknown }) {
    const where = options.field === undefined ? options.file : `${options.file}, field "${options.field}"`;
    super('corrupt_repository', `${where}: ${options.problem}`, { cause: options.cause });
    this.file = options.file;
    this.field = options.field;
  }
}

/** A task that the repository or the server does not have. The wording is the one that Triton's clients know. */
export class ModelNotFoundError extends BonsaiError {
  constructor(model: string) {
    super('model_not_found', `Request for unknown model: '${model}' is not found`);
  }
}

/** A version that a task does not have. */
export class VersionNotFoundError extends BonsaiError {
  constructor(model: string, version: number | string, available: readonly number[] = []) {
    const hint = available.length === 0 ? '' : `; it has ${available.join(', ')}`;
    super('version_not_found', `'${model}' version ${version} is not found${hint}`);
  }
}
