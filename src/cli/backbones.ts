import { Command, Option } from 'commander';
import { InvalidArgumentError } from '../base/errors.ts';
import { countCost } from '../ops/count.ts';
import type { BackboneOptions } from '../port/backbones/backbone.ts';
import type { Family } from '../port/backbones/family.ts';
import { BACKBONES, backbone, FAMILIES } from '../port/backbones/registry.ts';
import { alignedTable } from '../report/table.ts';
import { processContext } from './context.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { compactCount } from './network.ts';
import { jsonOption } from './options.ts';
import { parseInteger } from './parse.ts';

interface BackbonesOptions {
  readonly input: BackboneOptions['inputShape'];
  readonly classes: number;
  readonly json?: boolean;
}

export function backbonesCommand(): Command {
  return new Command('backbones')
    .description('List the networks that `bonsai train --backbone` can build, with their size and work.')
    .argument(
      '[specs...]',
      'names or families with options, such as densenet:growth=12,layers=4-4 (default: all)',
    )
    .addOption(
      new Option('--input <shape>', 'channels, height and width of the images')
        .argParser(parseImageShape)
        .default(parseImageShape('3x32x32'), '3x32x32'),
    )
    .addOption(
      new Option('--classes <n>', 'classes to tell apart').argParser(parseInteger(1, 100_000)).default(10),
    )
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai backbones --input 1x28x28
  $ bonsai backbones densenet-small densenet:growth=24,layers=4-4-4 --input 3x96x96 --classes 2
${EXIT_CODE_HELP}`,
    )
    .action((specs: readonly string[], options: BackbonesOptions) => {
      const context = processContext(options);
      const listed = (specs.length > 0 ? specs : Object.keys(BACKBONES)).map((spec) =>
        listBackbone(spec, options.input, options.classes),
      );
      const families = specs.length > 0 ? [] : FAMILIES;
      context.result(
        {
          input: options.input,
          classes: options.classes,
          backbones: listed,
          families: families.map(({ name, example, fields }) => ({
            name,
            example,
            options: Object.entries(fields).map(([key, { meaning, expected, isRequired, otherwise }]) => ({
              key,
              meaning,
              expected,
              isRequired,
              default: otherwise,
            })),
          })),
        },
        backbonesText(listed, families),
      );
    });
}

/** A side above this is no image that a network of this kind reads in one piece. */
export const MAX_IMAGE_SIDE = 4096;

/** `3x32x32` → channels, height, width. */
export function parseImageShape(text: string): BackboneOptions['inputShape'] {
  const sizes = /^\d+x\d+x\d+$/.test(text) ? text.split('x').map(Number) : [];
  if (sizes.length === 3 && sizes.every((size) => size >= 1 && size <= MAX_IMAGE_SIDE)) {
    return sizes as [number, number, number]; // Three of them, as just checked.
  }
  throw new InvalidArgumentError(
    `Expected channels, height and width such as 3x32x32, each from 1 to ${MAX_IMAGE_SIDE}, got "${text}".`,
  );
}

/** A backbone for images of one shape; `unfit` says why it cannot be built for them. */
export interface ListedBackbone {
  readonly name: string;
  readonly spec: string;
  readonly parameters?: number;
  readonly macs?: number;
  readonly unfit?: string;
}

/** @throws InvalidArgumentError for a spec that names no backbone */
export function listBackbone(
  spec: string,
  inputShape: BackboneOptions['inputShape'],
  classes: number,
): ListedBackbone {
  const made = backbone(spec);
  const known: Readonly<Record<string, string>> = BACKBONES;
  const listed = { name: made.name, spec: known[made.name] ?? spec };
  // Neither values of weights nor of the normalisation are counted.
  const perChannel = Array.from({ length: inputShape[0] }, () => 1);
  const normalization = { mean: perChannel, std: perChannel };
  try {
    const { parameters, macs } = countCost(made.build({ inputShape, classes, normalization, seed: 0 }));
    return { ...listed, parameters, macs };
  } catch (error) {
    if (!(error instanceof InvalidArgumentError)) throw error;
    return { ...listed, unfit: error.message };
  }
}

/** The listing for people: a table, and the options of families. */
export function backbonesText(listed: readonly ListedBackbone[], families: readonly Family[]): string {
  const counts = alignedTable([
    ['backbone', 'parameters', 'MACs'],
    ...listed.map(({ name, parameters, macs }) => [name, compact(parameters), compact(macs)]),
  ]);
  const [headings, rule, ...rows] = counts.trimEnd().split('\n');
  const width = Math.max(...counts.split('\n').map((line) => line.length));
  const sections = [
    [
      headings,
      rule,
      ...rows.map((row, i) => {
        const { name, spec } = listed[i]!;
        return name === spec ? row : `${row.padEnd(width)}  ${spec}`;
      }),
    ],
    listed.flatMap(({ unfit }) => unfit ?? []),
    ...families.map(familyLines),
  ];
  return sections
    .filter((lines) => lines.length > 0)
    .map((lines) => lines.join('\n'))
    .join('\n\n');
}

function familyLines({ name, example, fields }: Family): string[] {
  const width = Math.max(...Object.keys(fields).map((key) => key.length));
  return [
    `${name}: such as ${example}`,
    ...Object.entries(fields).map(([key, { meaning, expected, isRequired, otherwise }]) => {
      const absent = isRequired ? 'required' : `default ${otherwise}`;
      return `  ${key.padEnd(width)}  ${meaning} (${expected}; ${absent})`;
    }),
  ];
}

function compact(count: number | undefined): string {
  return count === undefined ? '–' : compactCount(count);
}
