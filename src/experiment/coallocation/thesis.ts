/** Section 5.4.2 and Table 5.2: 10 minutes of three tasks under the trivial policy (for CIFAR-10 with a maximal metric). Ratios in [0, 1]. */
export const THESIS_COALLOCATION = {
  violationRatio: 0.0066,
  cpuUtilization: 0.575,
  /** Another iteration (Figure A.2). */
  secondCpuUtilization: 0.56,
  tasks: [
    { task: 'BeeAnts', accuracy: 0.8147, normalisedAccuracy: 0.8596 },
    { task: 'CIFAR10', accuracy: 0.7397, normalisedAccuracy: 0.7891 },
    { task: 'CIFAR100', accuracy: 0.4452, normalisedAccuracy: 0.6756 },
  ],
} as const;
