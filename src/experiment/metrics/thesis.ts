/** Of the maximal throughput, in Figures 5.8 and 5.9. */
export const CPU_SHARES = [0.25, 0.5, 0.75, 1] as const;

/**
 * Section 5.3: pruning DenseNetMEDIUM for CIFAR-10. Accuracies in [0, 1], throughputs in inferences per second of one CPU of a Raspberry Pi 4.
 */
export const THESIS_PRUNING = {
  base: { accuracy: 0.8982, throughputRps: 4.3 },
  pruned: { accuracy: 0.8804, throughputRps: 17.62 },
  /** As printed; 17.62 / 4.30 is 4.098. */
  speedup: 4.09,
} as const;
