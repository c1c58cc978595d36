import { Command } from 'commander';
import { ownValue } from '../base/own-value.ts';
import { probeBlockSize } from '../engine/probe-block.ts';
import { alignedTable } from '../report/table.ts';
import type { Coupling, FrozenProducer } from '../transform/prune/groups.ts';
import {
  type InspectedGroup,
  type InspectedMember,
  type InspectedValue,
  type Inspection,
  inspect,
} from '../transform/prune/inspect.ts';
import { processContext } from './context.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import {
  checkShapes,
  compactCount,
  type InputShapes,
  readNetwork,
  shapeOption,
  shapeText,
} from './network.ts';
import { jsonOption } from './options.ts';

interface InspectCommandOptions {
  readonly shape: InputShapes;
  readonly all?: boolean;
  readonly json?: boolean;
}

export function inspectCommand(): Command {
  return new Command('inspect')
    .description('Show what a network consists of, and which of its channels can be pruned and why.')
    .argument('<model>', 'any ONNX network')
    .addOption(shapeOption())
    .option('--all', 'every node and every member of the groups (default: the largest and the first)')
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Example:
  $ bonsai inspect resnet18.onnx

A group is a set of channels that live and die together: the residual sum of two convolutions ties their outputs,
and every layer that reads them, so that pruning takes the same channels from all of them.
${EXIT_CODE_HELP}`,
    )
    .action(async (file: string, options: InspectCommandOptions) => {
      const context = processContext(options);
      const model = await readNetwork(file);
      checkShapes(model, options.shape);
      const inspection = inspect(model, { inputs: options.shape });
      const block = await probeBlockSize();
      context.result(
        { ...inspection, block },
        inspectionText(file, inspection, { block, all: options.all ?? false, shapes: options.shape }),
      );
    });
}

/** Nodes and names that are listed unless all are asked for: a screen's worth. */
export const LISTED = { nodes: 10, names: 4, frozen: 12 } as const;

/** The inspection for people. @param block the engine's block on this machine, in channels; 1: none */
export function inspectionText(
  file: string,
  inspection: Inspection,
  { block, all, shapes }: { readonly block: number; readonly all: boolean; readonly shapes?: InputShapes },
): string {
  const { parameters, macs, uncounted, groups, frozen, prunable, opset, producer } = inspection;
  const made = producer === '' ? '' : `, made by ${producer}`;
  const sections = [
    [
      `${file}: opset ${opset ?? 'none'}${made}`,
      ...inspection.inputs.map((value) => `  input   ${valueText(value)}`),
      ...inspection.outputs.map((value) => `  output  ${valueText(value)}`),
      `  ${compactCount(parameters)} parameters, ${macs === undefined ? 'multiply-accumulates unknown' : `${compactCount(macs)} multiply-accumulates (MACs) for ${batchText(inspection, shapes)}`}`,
      ...(uncounted === undefined ? [] : [`  ${uncounted}`]),
    ],
    ...(inspection.nodes.length > 0 ? [nodeLines(inspection, all)] : []),
    [
      `Dependency groups: ${groups.length}. The channels of a group live and die together.`,
      ...groups.flatMap((group, i) => ['', ...groupLines(group, i + 1, all)]),
    ],
    ...(frozen.length > 0 ? [frozenLines(frozen, all)] : []),
    [
      `Can be pruned: ${prunable.macsRatio === undefined ? '' : `${percent(prunable.macsRatio)} of the MACs lie in nodes with such channels, `}${percent(prunable.parametersRatio)} of the parameters in slices of them.`,
      block > 1
        ? `This machine's engine computes in blocks of ${block} channels: keep multiples of ${block} (bonsai prune --align auto does).`
        : "This machine's engine has no blocked layout: any number of channels is as good (--align 1).",
    ],
  ];
  return sections.map((lines) => lines.join('\n')).join('\n\n');
}

function valueText({ name, dtype, shape }: InspectedValue): string {
  return dtype === undefined ? `${name} (no tensor)` : `${name} ${dtype} ${shapeText(shape)}`;
}

/** What the work is counted for: sizes that the file fixes are not divided out. */
function batchText({ inputs }: Inspection, shapes: InputShapes = {}): string {
  const first = inputs.map(({ name, shape }) => (ownValue(shapes, name) ?? shape)?.[0]);
  const batches = first.filter((size) => typeof size === 'number' && size > 1);
  return batches.length > 0 ? `inputs of these sizes (first axis: ${batches.join(', ')})` : 'one input';
}

function nodeLines({ nodes, macs }: Inspection, all: boolean): string[] {
  const shown = all ? nodes : nodes.slice(0, LISTED.nodes);
  const rest = nodes.slice(shown.length).reduce((sum, node) => sum + node.macs, 0);
  const table = alignedTable([
    ['node', 'operator', 'MACs', 'share', 'prunable'],
    ...shown.map(({ node, opType, macs: own, share, isPrunable }) => [
      node,
      opType,
      compactCount(own),
      percent(share),
      isPrunable ? 'yes' : 'no',
    ]),
  ]);
  const more = nodes.length - shown.length;
  return [
    'Where the work is:',
    table.trimEnd(),
    ...(more > 0 ? [`… and ${more} more nodes with ${percent(rest / macs!)} (--all lists them)`] : []),
  ];
}

function groupLines(group: InspectedGroup, number: number, all: boolean): string[] {
  const { producers, members, couplings, inexact } = group;
  const made = new Set(producers);
  const through = members.filter(({ node, direction }) => direction === 'out' && !made.has(node));
  const read = members.filter(({ direction }) => direction === 'in');
  const branches: [heading: string, text: string][] = [
    ['made by', list(producers, all)],
    ['carried by', list(namesOf(through), all)],
    ['read by', list(namesOf(read), all)],
    ...reasons(couplings, all).map((reason): [string, string] => ['together', reason]),
    ['caution', inexact ?? ''],
    ...(all ? members.map((member): [string, string] => ['slices', memberText(member)]) : []),
  ];
  const shown = branches.filter(([, text]) => text !== '');
  return [
    `${number}. ${unitsText(group)}`,
    ...shown.map(
      ([heading, text], i) => `   ${i === shown.length - 1 ? '└─' : '├─'} ${heading.padEnd(10)}  ${text}`,
    ),
  ];
}

/** `64 channels`, or `12 units of 64 channels each` where every layer has several slices for one (heads of attention). */
function unitsText({ channels, members }: InspectedGroup): string {
  const width = Math.min(...members.map(({ slices }) => Math.floor(slices / channels)));
  if (Number.isFinite(width) && width > 1) return `${channels} units of ${width} channels each`;
  return `${channels} channel${channels === 1 ? '' : 's'}`;
}

function memberText({ node, parameter, axis, shape, slices, direction }: InspectedMember): string {
  const way = direction === 'in' ? 'read' : 'made or carried';
  return `${slices} of "${parameter}" [${shape.join(', ')}] along axis ${axis}, ${way} at ${node}`;
}

function namesOf(members: readonly InspectedMember[]): string[] {
  return [...new Set(members.map(({ node, opType }) => titled(node, opType)))];
}

/** One line for each way in which nodes tie channels. */
function reasons(couplings: readonly Coupling[], all: boolean): string[] {
  const byPhrase = new Map<string, string[]>();
  for (const { node, opType, weight } of couplings) {
    const phrase =
      weight === undefined ? phraseFor(opType) : `share the weight "${weight}" with another node`;
    byPhrase.set(phrase, [...(byPhrase.get(phrase) ?? []), titled(node, opType)]);
  }
  return [...byPhrase].map(([phrase, nodes]) => `${list(nodes, all)}: ${phrase}`);
}

/** A node's name, with its operator where the name does not say it. */
function titled(node: string, opType: string): string {
  return node.toLowerCase().includes(opType.toLowerCase()) ? node : `${node} (${opType})`;
}

function phraseFor(opType: string): string {
  return PHRASES.find(([operators]) => operators.has(opType))?.[1] ?? 'the same channels on all sides';
}

const PHRASES: readonly (readonly [ReadonlySet<string>, string])[] = [
  [
    new Set(['Add', 'Sub', 'Mul', 'Div', 'Sum', 'Max', 'Min', 'Mean', 'Pow', 'PRelu', 'Where']),
    'combined element by element',
  ],
  [new Set(['Conv', 'ConvTranspose']), 'convolved in groups, each of which loses the same'],
  [new Set(['MatMul', 'Einsum', 'Gemm']), 'multiplied with each other'],
  [new Set(['Concat']), 'joined along another axis'],
  [new Set(['Reshape', 'Flatten']), 'positions of rows, each of which loses the same'],
  [new Set(['Split']), 'cut into equal parts'],
];

function frozenLines(frozen: readonly FrozenProducer[], all: boolean): string[] {
  const byReason = new Map<string, string[]>();
  for (const { node, reason } of frozen) byReason.set(reason, [...(byReason.get(reason) ?? []), node]);
  const entries = [...byReason];
  const shown = all ? entries : entries.slice(0, LISTED.frozen);
  const more = entries.length - shown.length;
  return [
    'Stays as it is:',
    ...shown.map(([reason, nodes]) => `  ${list(nodes, all)}, because ${reason}`),
    ...(more > 0 ? [`  … and ${more} more reasons (--all lists them)`] : []),
  ];
}

function list(names: readonly string[], all: boolean): string {
  const shown = all ? names : names.slice(0, LISTED.names);
  const more = names.length - shown.length;
  return `${shown.join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
}

function percent(ratio: number): string {
  return `${(100 * ratio).toFixed(1)} %`;
}
