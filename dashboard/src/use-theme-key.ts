import { useEffect, useMemo, useState } from 'preact/hooks';
import { forgetPalette } from './palette.ts';
import { storedTheme, type Theme, useTheme } from './theme.ts';

/** The chosen colours, and a text that is another one whenever those on the screen are. */
export function useThemeKey() {
  const [theme, setTheme] = useState<Theme>(storedTheme);
  const systemTheme = useSystemTheme();
  const choose = (next: Theme) => {
    useTheme(next);
    setTheme(next);
  };
  return { theme, themeKey: `${theme} ${systemTheme}`, choose };
}

/** Whether the system prefers dark, as it changes. */
function useSystemTheme(): 'dark' | 'light' {
  const query = useMemo(() => matchMedia('(prefers-color-scheme: dark)'), []);
  const [isDark, setDark] = useState(query.matches);
  useEffect(() => {
    const onChange = () => {
      forgetPalette();
      setDark(query.matches);
    };
    query.addEventListener('change', onChange);
    return () => query.removeEventListener('change', onChange);
  }, [query]);
  return isDark ? 'dark' : 'light';
}
