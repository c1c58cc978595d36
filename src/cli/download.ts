import { Argument, Command, Option } from 'commander';
import { InvalidArgumentError } from '../base/errors.ts';
import { DOWNLOADS, type DownloadName, downloadSet } from '../port/data/downloads.ts';
import { interruptible, processContext } from './context.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { jsonOption } from './options.ts';
import type { ProgressTask } from './progress.ts';
import { checkWritableFolder } from './writable.ts';

interface DownloadCommandOptions {
  readonly out: string;
  readonly mirror: readonly string[];
  readonly json?: boolean;
}

export function downloadCommand(): Command {
  const sets = Object.entries(DOWNLOADS).map(([name, { title }]) => `  ${name.padEnd(12)} ${title}`);
  return new Command('download')
    .summary('download a data set')
    .description('Downloads a data set from its official place, checks and unpacks it.')
    .addArgument(new Argument('<set>', 'which one').choices(Object.keys(DOWNLOADS)))
    .addOption(new Option('--out <dir>', 'folder that it is put into').makeOptionMandatory())
    .addOption(
      new Option('--mirror <url...>', 'web folders with the same files, tried before the official ones')
        .argParser((url: string, before: readonly string[]) => [...before, parseMirror(url)])
        .default([] as readonly string[], 'none'),
    )
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Data sets:
${sets.join('\n')}

Examples:
  $ bonsai download cifar10 --out data
  $ bonsai train --data cifar10:data/cifar-10-batches-bin --out network.onnx

Files are checked against their published MD5 (hymenoptera has none; its archive's checksums are used). A
download that was interrupted goes on where it ended. Mind the licences of the data: none of them is Bonsai's.
${EXIT_CODE_HELP}`,
    )
    .action(async (name: DownloadName, options: DownloadCommandOptions) => {
      const context = processContext(options);
      await checkWritableFolder(options.out);
      const bars = downloadBars((label, total) => context.progress.task(label, total));
      const done = await interruptible(
        context.signal,
        'What has come so far is kept: run the same command again to go on.',
        () =>
          downloadSet(DOWNLOADS[name], options.out, {
            mirrors: options.mirror,
            signal: context.signal,
            onNotice: context.progress.say,
            onProgress: bars,
          }),
      );
      const sums = Object.entries(done.sha256).map(([file, sum]) => `${file}: SHA-256 ${sum}`);
      context.result(done, [...sums, `Use it with --data ${done.data}`].join('\n'));
    });
}

function parseMirror(url: string): string {
  if (URL.canParse(url) && /^https?:/.test(url)) return url;
  throw new InvalidArgumentError(
    `The mirror is "${url}", expected a URL such as https://example.org/mnist/.`,
  );
}

const BYTES_PER_MB = 1e6;

/** One bar for each file, from where it went on. A file whose size the server does not tell gets none. */
function downloadBars(
  open: (label: string, total: number) => ProgressTask,
): (file: string, bytes: number, total: number | undefined) => void {
  const bars = new Map<string, { readonly bar: ProgressTask; readonly from: number }>();
  return (file, bytes, total) => {
    if (total === undefined) return;
    const known = bars.get(file);
    // The bar counts what is left, so that the time left is that of this run.
    const { bar, from } = known ?? {
      bar: open(`Downloading ${file}`, Math.max(1, total - bytes)),
      from: bytes,
    };
    if (known === undefined) bars.set(file, { bar, from });
    bar.update(Math.max(0, bytes - from), `${megabytes(bytes)} of ${megabytes(total)} MB`);
    if (bytes === total) bar.done(`${megabytes(total)} MB`);
  };
}

function megabytes(bytes: number): string {
  return (bytes / BYTES_PER_MB).toFixed(1);
}
