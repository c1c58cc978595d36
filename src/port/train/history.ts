/** What was seen of a training since the entry before. Epochs, phases and validations each end with one. */
export interface HistoryEntry {
  /** Steps done so far. */
  readonly step: number;
  /** Passes over the training split so far. */
  readonly epoch: number;
  readonly resolution: number;
  /** Mean over the steps since the entry before. */
  readonly loss: number;
  /** Share of right answers on the (augmented) training batches since the entry before. */
  readonly trainAccuracy: number;
  /** Share of right answers on the validation split at this phase's resolution, where it was measured. */
  readonly validationAccuracy?: number;
}

/** Posted after every step. */
export interface TrainingEvent {
  readonly step: number;
  readonly totalSteps: number;
  /** Share of the whole work that is done, where a step's work goes with its number of pixels. */
  readonly workRatio: number;
  /** Of this step. */
  readonly loss: number;
  /** Share of right answers since the last entry of the history. */
  readonly runningAccuracy: number;
  readonly resolution: number;
}
