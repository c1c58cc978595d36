import { useEffect, useState } from 'preact/hooks';
import { addressOf, serverInAddress } from './address.ts';
import { FleetPage } from './fleet-page.tsx';
import type { FleetStore } from './fleet-store.ts';
import { ServerPage } from './server-page.tsx';
import type { Store } from './store.ts';

/** A fleet as a whole, or one server: where the address names one, or where there is no fleet. */
export function App({ store, fleet }: { readonly store: Store; readonly fleet: FleetStore }) {
  const [isFleet, setFleet] = useState(false);

  useEffect(() => {
    const server = serverInAddress();
    const end = store.subscribe(() => {
      if (server !== undefined || !store.overview?.isFleet) return;
      end();
      store.stop();
      fleet.watch();
      setFleet(true);
    });
    store.watch(server);
    return end;
  }, [store, fleet]);

  return isFleet ? (
    <FleetPage store={fleet} />
  ) : (
    <ServerPage
      store={store}
      onServer={(server) => {
        if (store.overview?.isFleet) location.assign(addressOf(server));
        else store.watch(server);
      }}
    />
  );
}
