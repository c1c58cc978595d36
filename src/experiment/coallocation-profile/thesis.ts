/** Table 5.1: multiples of the throughput on one free CPU, median (least – greatest). CIFAR-10, contested by BeeAnts version 2. */
export const THESIS_TABLE_5_1 = [
  {
    version: 'MobileNet orig',
    twoCpus: [1.62, 1.58, 1.69],
    contested25: [0.69, 0.68, 0.7],
    contested50: [0.52, 0.51, 0.52],
  },
  {
    version: 'DenseNetMEDIUM taylorfoV4',
    twoCpus: [2.12, 2.06, 2.18],
    contested25: [0.71, 0.69, 0.73],
    contested50: [0.5, 0.49, 0.51],
  },
  {
    version: 'ResNetSMALL orig',
    twoCpus: [1.8, 1.67, 2.1],
    contested25: [0.69, 0.64, 0.75],
    contested50: [0.53, 0.5, 0.58],
  },
  {
    version: 'DenseNetSMALL orig',
    twoCpus: [2.12, 1.85, 2.2],
    contested25: [0.69, 0.67, 0.7],
    contested50: [0.44, 0.43, 0.45],
  },
  {
    version: 'ResNetSMALL customV2',
    twoCpus: [2.14, 2.07, 2.25],
    contested25: [0.69, 0.67, 0.72],
    contested50: [0.47, 0.46, 0.49],
  },
  {
    version: 'DenseNetMEDIUM taylorfoV3',
    twoCpus: [2.14, 1.98, 2.31],
    contested25: [0.7, 0.68, 0.72],
    contested50: [0.43, 0.42, 0.44],
  },
  {
    version: 'ResNetMEDIUM orig',
    twoCpus: [2.05, 1.9, 2.24],
    contested25: [0.7, 0.68, 0.72],
    contested50: [0.45, 0.44, 0.47],
  },
  {
    version: 'DenseNetMEDIUM taylorfoV2',
    twoCpus: [2.31, 2.18, 2.38],
    contested25: [0.7, 0.69, 0.71],
    contested50: [0.43, 0.42, 0.44],
  },
  {
    version: 'DenseNetMEDIUM orig',
    twoCpus: [2.25, 2.22, 2.4],
    contested25: [0.69, 0.69, 0.71],
    contested50: [0.42, 0.42, 0.69],
  },
  {
    version: 'DenseNetMEDIUM taylorfoV1',
    twoCpus: [2.26, 2.19, 2.41],
    contested25: [0.7, 0.68, 0.71],
    contested50: [0.42, 0.42, 0.43],
  },
  {
    version: 'ResNetSMALL customV1',
    twoCpus: [2.35, 2.26, 2.65],
    contested25: [0.69, 0.68, 0.72],
    contested50: [0.44, 0.43, 0.45],
  },
] as const;
