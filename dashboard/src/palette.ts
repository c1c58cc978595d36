/** The colours of the page as the charts need them; the style sheet owns them. */
export interface Palette {
  readonly text: string;
  readonly muted: string;
  readonly grid: string;
  readonly accent: string;
  readonly refused: string;
  readonly late: string;
  readonly surface: string;
  readonly isDark: boolean;
}

let cached: Palette | undefined;

export function palette(): Palette {
  cached ??= read();
  return cached;
}

/** To be called when the theme has changed. */
export function forgetPalette(): void {
  cached = undefined;
}

function read(): Palette {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(`--${name}`).trim();
  return {
    text: colour('text'),
    muted: colour('muted'),
    grid: colour('grid'),
    accent: colour('accent'),
    refused: colour('refused'),
    late: colour('late'),
    surface: colour('surface'),
    isDark: style.colorScheme.includes('dark') && !style.colorScheme.includes('light'),
  };
}

/** From the most accurate version (violet) over green to the fastest (amber), evenly by rank. */
export function versionColour(rank: number, count: number): string {
  const share = count <= 1 ? 0 : rank / (count - 1);
  const hue = 295 - share * 225;
  return palette().isDark ? `oklch(0.74 0.13 ${hue})` : `oklch(0.58 0.15 ${hue})`;
}
