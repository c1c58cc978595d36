import { Argument, Command } from 'commander';
import { bashCompletion } from './completion/bash.ts';
import { fishCompletion } from './completion/fish.ts';
import { type CompletionNode, completionTree } from './completion/tree.ts';
import { zshCompletion } from './completion/zsh.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';

const SHELLS = {
  bash: bashCompletion,
  zsh: zshCompletion,
  fish: fishCompletion,
} as const satisfies Record<string, (tree: CompletionNode) => string>;

/** @param allCommands every command, whichever of them the program has loaded */
export function completionCommand(allCommands: () => Promise<readonly Command[]>): Command {
  return new Command('completion')
    .description('Print a script that completes commands, options and their values in a shell.')
    .addArgument(new Argument('<shell>', 'which one').choices(Object.keys(SHELLS)))
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai completion bash > ~/.local/share/bash-completion/completions/bonsai
  $ source <(bonsai completion zsh)          in ~/.zshrc, after compinit
  $ bonsai completion fish > ~/.config/fish/completions/bonsai.fish
${EXIT_CODE_HELP}`,
    )
    .action(async (shell: keyof typeof SHELLS, _, self: Command) => {
      const tree = completionTree(self.parent!, await allCommands());
      process.stdout.write(SHELLS[shell](tree));
    });
}
