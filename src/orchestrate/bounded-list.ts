/** The latest `capacity` items, oldest first; older ones are forgotten. */
export interface BoundedList<T> {
  push(item: T): void;
  items(): readonly T[];
}

/** An empty list that keeps the latest `capacity` items. */
export function boundedList<T>(capacity: number): BoundedList<T> {
  let kept: readonly T[] = [];
  return {
    // A new array each time: those handed out by `items` never change, so policies may keep them.
    push: (item) => {
      kept = [...kept.slice(kept.length >= capacity ? kept.length - capacity + 1 : 0), item];
    },
    items: () => kept,
  };
}
