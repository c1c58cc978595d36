import { BonsaiError } from '../../base/errors.ts';
import type { Tensor } from '../../base/tensor.ts';
import type { GraphBuilder } from '../../graph/build.ts';
import { NCHWC_DOMAIN } from '../../graph/domains.ts';
import type { ValueType } from '../../graph/model.ts';
import { expand, reshape } from '../../ops/emit.ts';
import type { InferredTypes } from '../../ops/infer.ts';
import { type Channels, channelsOf, isPaddedAtEnd, padAxes, sameChannels, unpadAxes } from './channels.ts';

/** A value in blocked layout: its memory is [N, C / block, H, W, block], its shape still reads [N, C, H, W]. */
export interface Blocked {
  readonly value: string;
  readonly channels: Channels;
}

/** The node that will make a value, held back because what comes after may be fused into it. */
export interface Pending {
  readonly channels: Channels;
  /** Writes the node: Relu(node's own result + sum), either part optional. Called once. */
  readonly finish: (fused: { readonly sum?: string; readonly relu?: boolean }) => string;
  /** Whether something is already being added. */
  readonly hasSum: boolean;
  /** The value is `of`, scaled for each channel by a vector of its slots: who multiplies by weights can take both. */
  readonly scaled?: { readonly of: string; readonly slots: string };
}

/** Vectors of slots: E[x] and E[x²] over the batch and all positions. */
export interface Moments {
  readonly mean: string;
  readonly square: string;
}

interface Entry {
  plain?: string;
  /** By segments, because a value may be asked for with another padding than it was made with. */
  readonly blocked: Map<string, Blocked>;
  pending?: Pending;
  /** One number for each image and channel, the same at all positions: plain, [N, C, 1, 1]. */
  spread?: string;
}

/**
 * Where the values of the graph that is being lowered are: each in plain layout, in blocked layout, in both, or not
 * yet written at all. Whoever asks for a form that is not there gets it made on the spot, once.
 */
export class Values {
  readonly build: GraphBuilder;
  readonly block: number;
  /** What is known of blocked values. */
  readonly moments = new Map<string, Moments>();
  readonly #types: ReadonlyMap<string, ValueType>;
  readonly #constants: ReadonlyMap<string, Tensor>;
  readonly #uses: ReadonlyMap<string, number>;
  readonly #entries = new Map<string, Entry>();
  /** Values that lie side by side in another one, block by block. */
  readonly #parts = new Map<string, readonly string[]>();
  /** Vectors of slots. */
  readonly #vectors = new Map<string, Blocked>();
  /** What a view is a view of. */
  readonly #viewed = new Map<string, string>();

  /** @param uses how many node inputs and graph outputs name a value */
  constructor(
    build: GraphBuilder,
    block: number,
    inferred: Pick<InferredTypes, 'types' | 'constants'>,
    uses: ReadonlyMap<string, number>,
  ) {
    this.build = build;
    this.block = block;
    this.#types = inferred.types;
    this.#constants = inferred.constants;
    this.#uses = uses;
  }

  uses(name: string): number {
    return this.#uses.get(name) ?? 0;
  }

  /** @throws BonsaiError `invalid_graph` where a size is not known */
  shape(name: string): readonly number[] {
    const shape = this.#types.get(name)?.shape;
    if (shape?.every((size) => typeof size === 'number')) return shape;
    throw new BonsaiError('invalid_graph', `A training step has a value "${name}" of unknown shape.`);
  }

  /** Whether all sizes of the value are known. */
  isKnown(name: string): boolean {
    return this.#types.get(name)?.shape?.every((size) => typeof size === 'number') ?? false;
  }

  /** Whether it is an image of floats, [N, C, H, W], that could be blocked. */
  isImage(name: string): boolean {
    const type = this.#types.get(name);
    return type?.dtype === 'float32' && type.shape?.length === 4;
  }

  /** Whether the value is in blocked layout already (or will be, once written). */
  isBlocked(name: string): boolean {
    const entry = this.#entries.get(name);
    return entry !== undefined && (entry.pending !== undefined || entry.blocked.size > 0);
  }

  /** The paddings of its channels; one segment for a value that is not blocked. */
  channels(name: string): Channels {
    const entry = this.#entries.get(name);
    const first = entry?.blocked.values().next().value;
    return entry?.pending?.channels ?? first?.channels ?? channelsOf([this.shape(name)[1]!], this.block);
  }

  setPlain(name: string, value: string): void {
    this.#entry(name).plain = value;
  }

  setBlocked(name: string, value: string, channels: Channels): void {
    this.#entry(name).blocked.set(channels.segments.join(), { value, channels });
  }

  setPending(name: string, pending: Pending): void {
    this.#entry(name).pending = pending;
  }

  setSpread(name: string, share: string): void {
    this.#entry(name).spread = share;
  }

  setParts(name: string, parts: readonly string[]): void {
    this.#parts.set(name, parts);
  }

  /** The blocked values that make up a value's blocks, or undefined. */
  parts(name: string): readonly string[] | undefined {
    return this.#parts.get(name);
  }

  /** The value as ONNX means it. */
  plain(name: string): string {
    if (name === '') return '';
    const entry = this.#entry(name);
    if (entry.plain !== undefined) return entry.plain;
    const { build } = this;
    if (entry.spread !== undefined && !this.isBlocked(name)) {
      entry.plain = expand(build, entry.spread, this.shape(name));
      return entry.plain;
    }
    const { value, channels } = this.blocked(name);
    const isTail = isPaddedAtEnd(channels);
    const ordered = build.op(
      'ReorderOutput',
      [value],
      { channels: isTail ? channels.count : channels.padded },
      { domain: NCHWC_DOMAIN },
    );
    entry.plain = isTail ? ordered : unpadAxes(build, ordered, new Map([[1, channels]]));
    return entry.plain;
  }

  /** The value in blocked layout. @param like the padding wanted; absent: whatever it has */
  blocked(name: string, like?: Channels): Blocked {
    const entry = this.#entry(name);
    if (entry.pending !== undefined) this.#write(name, entry);
    for (const known of entry.blocked.values()) {
      if (like === undefined || sameChannels(known.channels, like)) return known;
    }
    const channels = like ?? this.channels(name);
    const padded = padAxes(this.build, this.plain(name), 4, new Map([[1, channels]]));
    const made = {
      value: this.build.op('ReorderInput', [padded], {}, { domain: NCHWC_DOMAIN }),
      channels,
    };
    entry.blocked.set(channels.segments.join(), made);
    return made;
  }

  /** The node held back for a value that has this one use only; the caller must finish it. */
  takePending(name: string): Pending | undefined {
    const entry = this.#entries.get(name);
    if (entry?.pending === undefined || this.uses(name) !== 1) return undefined;
    const { pending } = entry;
    this.#entries.delete(name);
    return pending;
  }

  /** Whether the node held back for a value (of one use) can add something to its result. */
  canAddTo(name: string): boolean {
    const pending = this.#entries.get(name)?.pending;
    return pending !== undefined && !pending.hasSum && this.uses(name) === 1;
  }

  /** Two parts of a value that is only scaled for each channel and not yet written, however many uses it has. */
  scaled(name: string): Pending['scaled'] {
    return this.#entries.get(name)?.pending?.scaled;
  }

  /** Plain [N, C, 1, 1] of a value that is the same at all positions. */
  spread(name: string): string | undefined {
    return this.#entries.get(name)?.spread;
  }

  /** Registers a blocked value that the graph has no name for, and so gives it one. */
  alias(hint: string, value: string, channels: Channels): string {
    const name = this.build.fresh(`${hint}/unscaled`);
    this.setBlocked(name, value, channels);
    return name;
  }

  /** A value that is known before running. */
  constant(name: string): Tensor | undefined {
    return this.#constants.get(name);
  }

  /** A vector of one number per channel that was made with its padding: both forms are at hand. */
  setVector(name: string, slots: string, channels: Channels): void {
    this.setPlain(name, this.unpadVector(slots, channels));
    this.#vectors.set(name, { value: slots, channels });
  }

  /** A plain vector of one number per channel, padded to the slots. */
  vector(name: string, channels: Channels): string {
    const made = this.#vectors.get(name);
    if (made !== undefined && sameChannels(made.channels, channels)) return made.value;
    return this.padVector(this.plain(name), channels);
  }

  padVector(value: string, channels: Channels): string {
    return padAxes(this.build, value, 1, new Map([[0, channels]]));
  }

  /** The logical channels of a padded vector. */
  unpadVector(value: string, channels: Channels): string {
    return unpadAxes(this.build, value, new Map([[0, channels]]));
  }

  /** A value under another shape that reads the same memory. */
  view(value: string, shape: readonly number[]): string {
    const source = this.#viewed.get(value) ?? value;
    const view = reshape(this.build, source, shape);
    this.#viewed.set(view, source);
    return view;
  }

  #write(name: string, entry: Entry): void {
    const { finish, channels } = entry.pending!;
    entry.pending = undefined;
    this.setBlocked(name, finish({}), channels);
  }

  #entry(name: string): Entry {
    let entry = this.#entries.get(name);
    if (entry === undefined) {
      entry = { blocked: new Map() };
      this.#entries.set(name, entry);
    }
    return entry;
  }
}
