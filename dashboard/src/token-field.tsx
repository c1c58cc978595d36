/** Where the administrator's token is typed in. */
export function TokenField(props: { readonly token: string; readonly onInput: (token: string) => void }) {
  return (
    <div class="field">
      <label for="token">Administrator's token</label>
      <input
        id="token"
        type="password"
        autocomplete="off"
        value={props.token}
        onInput={(event) => props.onInput(event.currentTarget.value)}
      />
      <span class="hint">Kept until this tab closes.</span>
    </div>
  );
}
