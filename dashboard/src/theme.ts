import { forgetPalette } from './palette.ts';

export type Theme = 'auto' | 'light' | 'dark';

const KEY = 'bonsai-theme';

export function storedTheme(): Theme {
  const stored = localStorage.getItem(KEY);
  return stored === 'light' || stored === 'dark' ? stored : 'auto';
}

/** `auto` follows the system, also while it changes. */
export function useTheme(theme: Theme): void {
  if (theme === 'auto') {
    localStorage.removeItem(KEY);
    delete document.documentElement.dataset.theme;
  } else {
    localStorage.setItem(KEY, theme);
    document.documentElement.dataset.theme = theme;
  }
  forgetPalette();
}
