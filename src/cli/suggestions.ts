import type { Option } from 'commander';

const suggestions = new WeakMap<Option, readonly string[]>();

/**
 * Values that a shell is to offer for an option that takes others as well (one that takes no others has `choices`).
 * @returns the option
 */
export function suggest(option: Option, values: readonly string[]): Option {
  suggestions.set(option, values);
  return option;
}

/** Of names as help texts list them, those that are whole words: `static:TASK=VERSION` and `blind-split[:N]` are patterns. */
export function wholeNames(names: readonly string[]): string[] {
  return names.filter((name) => /^[a-z0-9.:-]+$/i.test(name) && !/:[A-Z]+$/.test(name));
}

export function suggestionsOf(option: Option): readonly string[] {
  return suggestions.get(option) ?? [];
}
