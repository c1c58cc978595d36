import type { Command } from 'commander';
import { InvalidArgumentError } from '../base/errors.ts';

/** An option that does nothing unless another one is given. */
export interface DependentOption {
  readonly flag: string;
  readonly isGiven: boolean;
  /** What it needs, as one would type it. */
  readonly need: string;
  readonly isMet: boolean;
}

/** @throws InvalidArgumentError for the first option that is given without what it needs: it would silently do nothing */
export function checkIdleOptions(options: readonly DependentOption[]): void {
  for (const { flag, isGiven, need, isMet } of options) {
    if (isGiven && !isMet)
      throw new InvalidArgumentError(`${flag} does something only with ${need}; give both or neither.`);
  }
}

/** Whether an option that has a default was given: as a flag, in the environment or in the configuration file. */
export function isChosen(command: Command, name: string): boolean {
  const source = command.getOptionValueSource(name);
  return source !== undefined && source !== 'default';
}
