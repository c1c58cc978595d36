import type { Argument, Option } from 'commander';

const suggestions = new WeakMap<Option | Argument, readonly string[]>();

/**
 * Values that a shell is to offer for an option or an argument that takes others as well (one that takes no others has `choices`).
 * @returns the same
 */
export function suggest<T extends Option | Argument>(option: T, values: readonly string[]): T {
  suggestions.set(option, values);
  return option;
}

/** Of names as help texts list them, those that are whole words: `static:TASK=VERSION` and `blind-split[:N]` are patterns. */
export function wholeNames(names: readonly string[]): string[] {
  return names.filter((name) => /^[a-z0-9.:-]+$/i.test(name) && !/:[A-Z]+$/.test(name));
}

export function suggestionsOf(option: Option | Argument): readonly string[] {
  return suggestions.get(option) ?? [];
}
