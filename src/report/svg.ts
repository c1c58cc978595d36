/** A piece of finished markup. Everything that becomes markup passes through here, so that all text is escaped. */
export type Markup = string & { readonly __markup?: never };

export type Attributes = Readonly<Record<string, string | number | undefined>>;

/** An element; numbers are written with at most 2 decimals (a hundredth of a pixel), undefined is left out. */
export function element(name: string, attributes: Attributes = {}, children: readonly Markup[] = []): Markup {
  const written = Object.entries(attributes)
    .filter(([, value]) => value !== undefined)
    .map(
      ([key, value]) => ` ${key}="${typeof value === 'number' ? pixel(value) : escapeText(String(value))}"`,
    )
    .join('');
  return children.length === 0 ? `<${name}${written}/>` : `<${name}${written}>${children.join('')}</${name}>`;
}

/** Text as markup. Control characters, which XML forbids, become U+FFFD. */
export function escapeText(text: string): Markup {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, '\ufffd');
}

/** An SVG text element at a place; `class` decides its look. */
export function label(x: number, y: number, text: string, attributes: Attributes = {}): Markup {
  return element('text', { x, y, ...attributes }, [escapeText(text)]);
}

export function line(x1: number, y1: number, x2: number, y2: number, className: string): Markup {
  return element('line', { x1, y1, x2, y2, class: className });
}

/** A drawing that scales with the page and tells screen readers what it shows. */
export function drawing(
  options: { id: string; width: number; height: number; title: string; description: string },
  children: readonly Markup[],
): Markup {
  const { id, width, height, title, description } = options;
  return element(
    'svg',
    {
      xmlns: 'http://www.w3.org/2000/svg',
      viewBox: `0 0 ${pixel(width)} ${pixel(height)}`,
      role: 'img',
      'aria-labelledby': `${id}-title ${id}-desc`,
    },
    [
      element('title', { id: `${id}-title` }, [escapeText(title)]),
      element('desc', { id: `${id}-desc` }, [escapeText(description)]),
      ...children,
    ],
  );
}

/**
 * Many dots as one path (zero-length strokes with round caps), at most one per grid cell of `cell` pixels: a
 * hidden dot under another one tells nothing, and 10^5 of them would make the page heavy.
 */
export function dots(
  places: Iterable<readonly [x: number, y: number]>,
  className: string,
  cell = 1,
): Markup[] {
  const seen = new Set<string>();
  for (const [x, y] of places)
    seen.add(`M${pixel(Math.round(x / cell) * cell)} ${pixel(Math.round(y / cell) * cell)}h0`);
  return seen.size === 0 ? [] : [element('path', { class: className, d: [...seen].join('') })];
}

/** A number as SVG wants it. */
export function pixel(value: number): string {
  return String(Number(value.toFixed(2)));
}
