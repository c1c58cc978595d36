import 'uplot/dist/uPlot.min.css';
import './style.css';
import { render } from 'preact';
import { App } from './app.tsx';
import { Store } from './store.ts';
import { storedTheme, useTheme } from './theme.ts';

useTheme(storedTheme());
const store = new Store();
store.watch(undefined);
render(<App store={store} />, document.getElementById('app')!);
