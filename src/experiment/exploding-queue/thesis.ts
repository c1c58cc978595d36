/** Figures 5.10 and A.1: under, at and over what a version can. */
export const QUEUE_SHARES = [0.9, 0.95, 1, 1.05, 1.1] as const;

/** Section 5.3, on Figure A.1: of eleven versions of CIFAR-10, how many queues explode at a share of the profiled maximum. */
export const THESIS_EXPLOSIONS = { versions: 11, at105: 7, at110: 10 } as const;
