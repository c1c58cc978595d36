/**
 * What a record holds under a name that comes from elsewhere, such as a network's file: `record[name]` would find the
 * `constructor` and `toString` that every object inherits.
 */
export function ownValue<T>(record: Readonly<Record<string, T>> | undefined, name: string): T | undefined {
  return record !== undefined && Object.hasOwn(record, name) ? record[name] : undefined;
}
