/** A table as CSV (RFC 4180): numbers as they are, `undefined` and NaN empty. */
export function csv(
  columns: readonly string[],
  rows: readonly (readonly (string | number | boolean | undefined)[])[],
): string {
  return `${[columns, ...rows].map((row) => row.map(cell).join(',')).join('\n')}\n`;
}

function cell(value: string | number | boolean | undefined): string {
  if (value === undefined || (typeof value === 'number' && Number.isNaN(value))) return '';
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
